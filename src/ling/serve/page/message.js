// One message of the thread: shown, edited, and kept up to date while it is being written.

import { callFold, resultForm } from "./calls.js";
import { copyFrom, el, icon, iconButton } from "./dom.js";
import { MarkdownView, codeBlock } from "./markdown.js";
import { percent } from "./map.js";

/** A message's element; `actions` are the functions behind its buttons. */
export class MessageView {
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    this.body = el("div", { class: "body" });
    this.foot = el("footer", {});
    const names = { user: "You", assistant: "Ling", tool: "Result of a tool" };
    const label = { "aria-label": names[node.role], data: { id: node.id } };
    this.root = el("article", { class: `message ${node.role}`, ...label }, this.body, this.foot);
    if (node.role === "assistant") this.makeAssistant();
    else this.makePlain();
    this.update({});
  }

  makePlain() {
    if (this.node.role === "tool") {
      const words = el("span", { textContent: `Result of ${this.node.name || "a tool"}` });
      const body = el("div", {}, codeBlock(this.node.content, "json"));
      this.body.append(
        el("details", { class: "fold" }, el("summary", {}, icon("tool"), words), body),
      );
    } else {
      this.body.append(el("div", { class: "said-text", textContent: this.node.content }));
    }
  }

  makeAssistant() {
    this.thoughtTitle = el("span");
    const thought = el("div", { class: "markdown" });
    this.thought = new MarkdownView(thought);
    this.fold = el(
      "details",
      { class: "fold", hidden: true },
      el("summary", {}, icon("think"), this.thoughtTitle),
      thought,
    );
    const content = el("div", { class: "markdown" });
    this.content = new MarkdownView(content);
    this.calls = el("div", { class: "calls" });
    this.problem = el("div", { class: "problem", role: "alert", hidden: true });
    this.body.append(this.fold, content, this.calls, this.problem);
  }

  /** Show what the node has now; `isWriting` while the answer comes. */
  update({ isWriting = false, place = null, hasTrace = false }) {
    if (place) this.place = place;
    this.root.classList.toggle("writing", isWriting);
    if (this.node.role === "assistant") this.updateAssistant(isWriting);
    this.updateFoot(isWriting, hasTrace);
  }

  updateAssistant(isWriting) {
    const { node } = this;
    this.fold.hidden = !node.reasoning;
    if (node.reasoning) {
      const isThinking = isWriting && !node.content && !node.toolCalls?.length;
      const seconds = node.stats?.thoughtFor;
      this.thoughtTitle.textContent = isThinking
        ? "Thinking…"
        : seconds
          ? `Thought for ${seconds.toFixed(1)} s`
          : "Thought";
      this.fold.classList.toggle("active", isThinking);
      this.thought.update(node.reasoning);
    }
    this.content.update(node.content);
    this.updateCalls(isWriting);
    this.updateProblem();
  }

  updateCalls(isWriting) {
    const calls = this.node.toolCalls ?? [];
    if (!calls.length) return;
    const open = new Set(
      [...this.calls.querySelectorAll("details[open]")].map((d) => d.dataset.at),
    );
    const typed = new Map(
      [...this.calls.querySelectorAll("textarea")].map((t) => [t.name, t.value]),
    );
    this.calls.replaceChildren(...calls.map((call, i) => callFold(call, i, open.has(String(i)))));
    if (isWriting || !this.actions.wantsResults(this.node)) return;
    this.calls.append(
      resultForm(calls, typed, (results) => this.actions.sendResults(this.node, results)),
    );
  }

  updateProblem() {
    const { error } = this.node;
    if (this.problem.dataset.text === (error?.message ?? "")) return;
    this.problem.dataset.text = error?.message ?? "";
    this.problem.hidden = !error;
    if (!error) return;
    const again = el("button", { type: "button", class: "strong", textContent: "Try again" });
    again.addEventListener("click", () => this.actions.retry(this.node));
    this.problem.replaceChildren(el("span", { textContent: error.message }), again);
    if (error.retryAfter) countDown(again, error.retryAfter);
  }

  updateFoot(isWriting, hasTrace) {
    const { node, actions, place } = this;
    const parts = [];
    if (place && place.count > 1) parts.push(this.switcher(place));
    if (!isWriting) {
      const copy = iconButton("copy", "Copy", () => copyFrom(copy, node.content));
      if (node.content) parts.push(copy);
      if (node.role === "user") parts.push(iconButton("edit", "Edit", () => this.edit()));
      if (node.role === "assistant")
        parts.push(iconButton("again", "Answer again", () => actions.regenerate(node)));
      if (hasTrace)
        parts.push(iconButton("map", "Experts of this answer", () => actions.showTrace(node)));
    }
    if (node.role === "assistant")
      parts.push(el("span", { class: "stats", textContent: statsText(node) }));
    this.foot.replaceChildren(...parts);
  }

  switcher({ index, count }) {
    const step = (name, label, by, off) => {
      const button = iconButton(name, label, () => this.actions.switchBranch(this.node, by));
      button.disabled = off;
      return button;
    };
    return el(
      "span",
      { class: "branches", role: "group", "aria-label": "Branches" },
      step("left", "Previous version", -1, index === 0),
      el("span", { textContent: `${index + 1} / ${count}` }),
      step("right", "Next version", 1, index === count - 1),
    );
  }

  edit() {
    const field = el("textarea", { value: this.node.content, "aria-label": "Edit the message" });
    const stop = () => this.body.replaceChildren(this.shown);
    const cancel = el("button", {
      type: "button",
      class: "quiet",
      textContent: "Cancel",
      on: { click: stop },
    });
    const form = el(
      "form",
      { class: "edit" },
      field,
      el("div", { class: "row" }, cancel, el("button", { class: "strong", textContent: "Send" })),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) this.actions.resend(this.node, field.value);
    });
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        form.requestSubmit();
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        stop();
      }
    });
    this.shown = this.body.firstChild;
    this.body.replaceChildren(form);
    field.style.height = `${Math.min(field.scrollHeight + 4, innerHeight / 2)}px`;
    field.focus();
  }
}

function countDown(button, seconds) {
  const end = performance.now() + 1000 * seconds;
  button.disabled = true;
  const tick = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0 && button.isConnected) setTimeout(tick, 250);
  };
  // Its element is put into the page after this.
  setTimeout(tick, 0);
}

const ENDS = { length: "cut at the limit of tokens", stopped: "stopped", error: "broke off" };

function statsText(node) {
  const s = node.stats ?? {};
  const parts = [];
  if (s.tokens) parts.push(`${s.tokens} tokens`);
  if (s.perSecond) parts.push(`${s.perSecond.toFixed(1)} tokens/s`);
  if (s.firstAfter !== undefined) parts.push(`first after ${s.firstAfter.toFixed(2)} s`);
  if (s.cached) parts.push(`${s.cached} of ${s.prompt} prompt tokens cached`);
  if (s.acceptance !== undefined) parts.push(`${percent(s.acceptance)} of drafts accepted`);
  if (ENDS[node.finish]) parts.push(ENDS[node.finish]);
  return parts.join(" · ");
}
