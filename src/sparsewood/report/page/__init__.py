"""A study as one page of HTML that opens from disk and needs no network: charts, tables, and what is missing.

`write_page` writes it, `page_text` is the text. Everything the page computes with is computed here in Python (means,
deviations, who dominates whom); its scripts draw.
"""

from __future__ import annotations

from sparsewood.report.page.document import page_text, write_page

__all__ = ["page_text", "write_page"]
