// Building DOM without markup: text from a model or a person only ever becomes text nodes.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `props` are `class`, `on` (listeners), `data`, properties, or attributes with `-`. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "class") node.className = value;
    else if (name === "on")
      for (const [event, f] of Object.entries(value)) node.addEventListener(event, f);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for")
      node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

const PATHS = {
  plus: "M12 5v14M5 12h14",
  sidebar: "M4 5h16v14H4zM9.5 5v14",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7.5 7.5h9v9h-9z",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M20 5v5h-5M20 10a8 8 0 1 0 .6 5",
  left: "M14.5 6l-6 6 6 6",
  right: "M9.5 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  map: "M4 4h4v4H4zM10 10h4v4h-4zM16 4h4v4h-4zM4 16h4v4H4zM16 16h4v4h-4z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  think: "M9 18h6M10 21h4M8.5 15a6 6 0 1 1 7 0c-.6.5-1 1.2-1 2v.5h-5V17c0-.8-.4-1.5-1-2z",
  tool: "M14 6.5a4 4 0 0 1 5-1l-3 3 2 2 3-3a4 4 0 0 1-5.5 5L9 19a2.1 2.1 0 0 1-3-3l6.5-6.5a4 4 0 0 1 1.5-3z",
  upload: "M12 16V4M7 9l5-5 5 5M4 20h16",
  download: "M12 4v12M7 11l5 5 5-5M4 20h16",
  grow: "M4 10V4h6M20 14v6h-6M4 4l7 7M20 20l-7-7",
};

/** One of our icons, drawn with strokes in the text's colour. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("glyph");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that is only an icon; its label is for screen readers and the tooltip. */
export function iconButton(name, label, onClick, extra = {}) {
  const button = el("button", {
    type: "button",
    class: "icon",
    title: label,
    "aria-label": label,
    ...extra,
  });
  button.append(icon(name));
  button.addEventListener("click", onClick);
  return button;
}

/** Put an icon, and perhaps words, into a button of the page. */
export function dress(button, name, words) {
  button.replaceChildren(icon(name), ...(words ? [el("span", { textContent: words })] : []));
  if (!button.title && button.getAttribute("aria-label"))
    button.title = button.getAttribute("aria-label");
  return button;
}

/** Copy text and show it on the button for a moment. */
export async function copyFrom(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text); // pages of plain http have no clipboard interface
  }
  button.replaceChildren(icon("check"));
  button.classList.add("done");
  setTimeout(() => {
    button.replaceChildren(icon("copy"));
    button.classList.remove("done");
  }, 1200);
}

function copyBySelection(text) {
  const field = el("textarea", { value: text, class: "unseen" });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
