// Browsers start no worker for a page that was opened from disk. There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inner = this.frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source === inner) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      const page = inner.document;
      page.open();
      page.write(
        "<script>postMessage = (data) => parent.postMessage(data, '*');" +
          "importScripts = (...urls) => urls.reduce((done, each) => done.then(() => new Promise((next) => {" +
          "const tag = document.createElement('script'); tag.src = each; tag.onload = next;" +
          "document.body.appendChild(tag); })), Promise.resolve());</" +
          "script><body><script src='" + url + "'></" + "script></body>"
      );
      page.close();
    }
    postMessage(data) {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }
    terminate() {
      this.frame.remove();
    }
    set onmessage(listener) {
      this.addEventListener("message", listener);
    }
  };
}
