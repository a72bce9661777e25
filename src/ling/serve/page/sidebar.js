// The list of conversations, and their way out of the browser and back.

import { byId, dress, el, iconButton } from "./dom.js";
import { confirmed } from "./settings.js";
import { exported, imported } from "./tree.js";

const MAX_FILE = 50 << 20;

/** The sidebar on a `Conversations` store; `onOpen(id)`, `onNew()` and `onProblem(text)` are the
 * page's. */
export class Sidebar {
  constructor(store, { onOpen, onNew, onProblem }) {
    Object.assign(this, { store, onOpen, onNew, onProblem });
    dress(byId("new-chat"), "plus", "New chat").addEventListener("click", () => this.leave(onNew));
    dress(byId("import"), "upload", "Import").addEventListener("click", () =>
      byId("import-file").click(),
    );
    dress(byId("export-all"), "download", "Export").addEventListener("click", () =>
      this.save(store.list(), "ling-conversations"),
    );
    dress(byId("close-sidebar"), "sidebar").addEventListener("click", () => this.toggle(false));
    dress(byId("open-sidebar"), "sidebar").addEventListener("click", () => this.toggle(true));
    byId("scrim").addEventListener("click", () => this.toggle(false));
    byId("import-file").addEventListener("change", (event) => this.load(event.target));
    this.toggle(matchMedia("(min-width: 900px)").matches);
  }

  toggle(isOpen) {
    document.body.classList.toggle("with-sidebar", isOpen);
    byId("scrim").hidden = !isOpen;
    byId("sidebar").inert = !isOpen;
  }

  /** Do something that shows a conversation: on a phone the list is then in the way. */
  leave(action) {
    if (matchMedia("(max-width: 899px)").matches) this.toggle(false);
    action();
  }

  render(current) {
    const listed = this.store.list().filter((c) => Object.keys(c.nodes).length);
    byId("conversations").replaceChildren(...listed.map((c) => this.item(c, c.id === current)));
    byId("export-all").disabled = !listed.length;
  }

  item(conversation, isCurrent) {
    const title = conversation.title || "Without a title";
    const open = el("button", { type: "button", class: "title", title, textContent: title });
    if (isCurrent) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => this.leave(() => this.onOpen(conversation.id)));
    return el(
      "li",
      { class: isCurrent ? "current" : "" },
      open,
      iconButton("download", `Export “${title}”`, () =>
        this.save([conversation], "ling-conversation"),
      ),
      iconButton("trash", `Delete “${title}”`, () => this.remove(conversation, title)),
    );
  }

  async remove(conversation, title) {
    if (!(await confirmed("Delete this conversation?", title, "Delete"))) return;
    await this.store.remove(conversation.id);
    this.onNew(conversation.id);
  }

  save(conversations, name) {
    const url = URL.createObjectURL(
      new Blob([exported(conversations)], { type: "application/json" }),
    );
    const day = new Date().toISOString().slice(0, 10);
    el("a", { href: url, download: `${name}-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async load(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      if (file.size > MAX_FILE) throw new Error("it is larger than 50 MB");
      const conversations = imported(await file.text());
      for (const conversation of conversations) await this.store.save(conversation);
      if (conversations.length) this.leave(() => this.onOpen(conversations[0].id));
    } catch (error) {
      this.onProblem(`The file could not be imported: ${error.message}`);
    }
  }
}
