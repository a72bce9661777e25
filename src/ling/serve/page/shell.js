// The frame around the conversation: composer, keys, scrolling, theme and the switch for thinking.

import { byId, dress } from "./dom.js";

const THEMES = { system: "system", light: "sun", dark: "moon" };
const THINKING = { default: "Thinking: default", on: "Thinking: on", off: "Thinking: off" };
const HINT = "Enter sends, Shift+Enter breaks the line";

/** `does` has the page's functions: `send(text)` (true when taken), `stop`, `newChat`, `editLast`,
 * `openSettings`, `toggleMap`, `change(settings)` and `recolour`. */
export class Shell {
  constructor(settings, does) {
    this.settings = settings;
    this.does = does;
    this.isRunning = false;
    this.follows = true;
    this.field = byId("composer-text");
    this.scroll = byId("scroll");
    dress(byId("open-settings"), "settings").addEventListener("click", does.openSettings);
    dress(byId("toggle-map"), "map").addEventListener("click", does.toggleMap);
    byId("toggle-theme").addEventListener("click", () => this.nextTheme());
    byId("think").addEventListener("click", () => this.nextThinking());
    dress(byId("to-end"), "down").addEventListener("click", () => this.toEnd(true));
    this.scroll.addEventListener("scroll", () => this.showToEnd(), { passive: true });
    byId("composer").addEventListener("submit", (event) => this.submit(event));
    this.field.addEventListener("input", () => this.fit());
    document.addEventListener("keydown", (event) => this.key(event));
    this.showTheme();
    this.showThinking();
    this.showRunning(false);
  }

  // ---- writing --------------------------------------------------------------------------------

  submit(event) {
    event.preventDefault();
    if (this.isRunning) this.does.stop();
    else if (this.field.value.trim() && this.does.send(this.field.value)) {
      this.field.value = "";
      this.fit();
    }
  }

  key(event) {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const isHere = event.target === this.field;
    if (event.key === "Escape" && this.isRunning) this.does.stop();
    else if (event.key === "Enter" && !event.shiftKey && isHere) {
      event.preventDefault();
      if (!this.isRunning) byId("composer").requestSubmit();
    } else if (event.key === "ArrowUp" && isHere && !this.field.value) {
      event.preventDefault();
      this.does.editLast();
    } else if (
      event.key.toLowerCase() === "o" &&
      event.shiftKey &&
      (event.ctrlKey || event.metaKey)
    ) {
      event.preventDefault();
      this.does.newChat();
    }
  }

  /** As high as what is written, within bounds. */
  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, innerHeight * 0.4)}px`;
  }

  showRunning(isRunning) {
    this.isRunning = isRunning;
    const label = isRunning ? "Stop" : "Send";
    const button = dress(byId("send"), isRunning ? "stop" : "send");
    button.setAttribute("aria-label", label);
    button.title = label;
    button.classList.toggle("stopping", isRunning);
    byId("hint").textContent = isRunning ? "Esc stops" : HINT;
  }

  /** Tell a screen reader; the text of an answer itself is not read out as it comes. */
  speak(text) {
    byId("spoken").textContent = text;
  }

  /** A line above the conversation, for what concerns the page as a whole. */
  warn(text) {
    byId("banner").textContent = text;
    byId("banner").hidden = !text;
  }

  // ---- scrolling ------------------------------------------------------------------------------

  /** Keep the end in sight, if it is: who has scrolled up reads something there. */
  toEnd(always = false) {
    if (always) this.follows = true;
    if (this.follows) this.scroll.scrollTop = this.scroll.scrollHeight;
    this.showToEnd();
  }

  showToEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    this.follows = scrollHeight - scrollTop - clientHeight < 60;
    byId("to-end").hidden = this.follows;
  }

  // ---- looks ----------------------------------------------------------------------------------

  nextTheme() {
    this.does.change({ theme: next(THEMES, this.settings.theme) });
    this.showTheme();
    this.does.recolour();
  }

  showTheme() {
    const { theme } = this.settings;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = dress(byId("toggle-theme"), THEMES[theme] ?? "system");
    button.title = `Theme: ${theme}`;
    button.setAttribute("aria-label", button.title);
  }

  nextThinking() {
    this.does.change({ thinking: next(THINKING, this.settings.thinking) });
    this.showThinking();
  }

  showThinking() {
    const { thinking } = this.settings;
    const button = dress(byId("think"), "think", THINKING[thinking]);
    button.setAttribute("aria-pressed", String(thinking === "on"));
  }
}

function next(table, name) {
  const names = Object.keys(table);
  return names[(names.indexOf(name) + 1) % names.length];
}
