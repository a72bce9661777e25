// Dialogs: the settings, the API key, and a question before something is lost.

import { byId, el, iconButton } from "./dom.js";
import { apiKey, keyIsKept, setApiKey } from "./store.js";

const NUMBERS = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    about: "0 takes the most likely token",
  },
  { name: "topP", label: "Top-p", min: 0.01, max: 1, step: 0.01, about: "1 is off" },
  { name: "maxTokens", label: "Most tokens", min: 1, step: 1, about: "of an answer" },
  { name: "seed", label: "Seed", step: 1, about: "same seed, same answer" },
];

/** Show the settings; `onSave` gets the changed ones and the system prompt of this conversation. */
export function openSettings({ settings, system, onSave }) {
  const dialog = byId("settings");
  const fields = {};
  const keep = (name, node) => {
    node.name = name;
    fields[name] = node;
    return node;
  };
  const form = el(
    "form",
    { method: "dialog" },
    heading("settings-title", "Settings", dialog),
    labelled(
      "System prompt",
      keep(
        "system",
        el("textarea", {
          rows: 3,
          value: system,
          placeholder: "How the model should behave, for this conversation and new ones",
        }),
      ),
    ),
    el("div", { class: "grid" }, ...NUMBERS.map((n) => numberField(n, settings, keep))),
    el("p", {
      class: "note",
      textContent:
        "An empty field leaves the choice to the server, which has what the model recommends.",
    }),
    labelled(
      "Thinking",
      keep(
        "thinking",
        choice(settings.thinking, { default: "as the model has it", on: "on", off: "off" }),
      ),
    ),
    labelled(
      "Tools, as JSON",
      keep(
        "tools",
        el("textarea", {
          rows: 3,
          class: "mono",
          spellcheck: false,
          value: settings.tools,
          placeholder: '[{"type": "function", "function": {"name": "…", "parameters": {…}}}]',
        }),
      ),
    ),
    el("fieldset", {}, el("legend", { textContent: "API key" }), ...keyFields(keep)),
    el(
      "div",
      { class: "row end" },
      el("button", { class: "strong", value: "save", textContent: "Save" }),
    ),
  );
  form.addEventListener("submit", (event) => {
    const problem = toolsProblem(fields.tools.value);
    fields.tools.setCustomValidity(problem);
    if (problem) {
      event.preventDefault();
      fields.tools.reportValidity();
      return;
    }
    setApiKey(fields.key.value.trim(), { keep: fields.keepKey.checked });
    const changed = Object.fromEntries(
      [...NUMBERS.map((n) => n.name), "thinking", "tools"].map((name) => [
        name,
        fields[name].value.trim(),
      ]),
    );
    onSave(changed, fields.system.value);
  });
  fields.tools.addEventListener("input", () => fields.tools.setCustomValidity(""));
  show(dialog, form);
}

/** Ask for the API key; `onKey` is called when one was given. */
export function openKey({ isWrong, onKey }) {
  const dialog = byId("key");
  if (dialog.open) return;
  const fields = {};
  const keep = (name, node) => (fields[name] = node);
  const form = el(
    "form",
    { method: "dialog" },
    heading("key-title", "API key", dialog),
    el("p", {
      textContent: isWrong
        ? "The server does not accept this key."
        : "This server asks for a key. Who started it knows it.",
    }),
    ...keyFields(keep),
    el(
      "div",
      { class: "row end" },
      el("button", { class: "strong", value: "save", textContent: "Continue" }),
    ),
  );
  fields.key.required = true;
  form.addEventListener("submit", () => {
    setApiKey(fields.key.value.trim(), { keep: fields.keepKey.checked });
    onKey();
  });
  show(dialog, form);
  fields.key.focus();
}

/** Ask before something is lost; resolves to whether it may be. */
export function confirmed(title, text, verb) {
  const dialog = byId("confirm");
  return new Promise((resolve) => {
    const form = el(
      "form",
      { method: "dialog" },
      heading("confirm-title", title, dialog),
      el("p", { textContent: text }),
      el(
        "div",
        { class: "row end" },
        el("button", { class: "quiet", value: "", textContent: "Cancel" }),
        el("button", { class: "strong", value: "yes", textContent: verb }),
      ),
    );
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.returnValue = "";
    show(dialog, form);
  });
}

function show(dialog, form) {
  dialog.replaceChildren(form);
  dialog.showModal();
}

function heading(id, text, dialog) {
  return el(
    "header",
    {},
    el("h2", { id, textContent: text }),
    iconButton("close", "Close", () => dialog.close()),
  );
}

const labelled = (text, control) => el("label", {}, el("span", { textContent: text }), control);

function numberField({ name, label, about, ...limits }, settings, keep) {
  const input = el("input", {
    type: "number",
    inputMode: "decimal",
    value: settings[name],
    placeholder: "default",
    ...limits,
  });
  return el(
    "label",
    {},
    el("span", { textContent: label }),
    keep(name, input),
    el("small", { textContent: about }),
  );
}

function choice(value, options) {
  const listed = Object.entries(options).map(([name, text]) =>
    el("option", { value: name, textContent: text, selected: name === value }),
  );
  return el("select", {}, ...listed);
}

function keyFields(keep) {
  const key = keep(
    "key",
    el("input", {
      type: "password",
      value: apiKey(),
      autocomplete: "off",
      "aria-label": "API key",
      placeholder: "none",
    }),
  );
  const kept = keep("keepKey", el("input", { type: "checkbox", checked: keyIsKept() }));
  return [
    key,
    el("label", { class: "check" }, kept, "Remember it in this browser, not only in this tab"),
  ];
}

function toolsProblem(text) {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "A list of tools is wanted: [ … ]";
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
}
