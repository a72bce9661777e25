// Tool calls of an answer: what is called, and fields for what the tools gave.

import { indented } from "./arguments.js";
import { el, icon } from "./dom.js";
import { codeBlock } from "./markdown.js";

/** One call, folded; `at` names it among the others. */
export function callFold(call, at, open) {
  const title = el("span", {}, "Calls ", el("code", { textContent: call.name }));
  const body = el("div", {}, codeBlock(indented(call.arguments), "json"));
  const given = el("span", { class: "given", textContent: call.arguments.slice(0, 200) });
  const summary = el("summary", {}, icon("tool"), title, given);
  return el("details", { class: "fold", open, data: { at: String(at) } }, summary, body);
}

/** A field for the result of each call; `typed` has what stood in them before. */
export function resultForm(calls, typed, onSend) {
  const fields = calls.map((call, i) => {
    const name = `result-${i}`;
    const value = typed.get(name) ?? "";
    const field = el("textarea", { name, rows: 2, value, placeholder: "What the tool gave" });
    const given = el("code", { textContent: call.arguments.slice(0, 80) });
    return el("label", {}, el("span", {}, `Result of ${call.name} `, given), field);
  });
  const send = el("button", { class: "strong", textContent: "Send results" });
  const form = el("form", { class: "results" }, ...fields, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    onSend(calls.map((_, i) => form.elements[`result-${i}`].value));
  });
  return form;
}
