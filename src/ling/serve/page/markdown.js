// Markdown as DOM nodes. `marked` only splits the text into tokens; no markup is ever parsed from
// them: raw HTML is shown as text, images are links, and links are http(s) or mail, or dead.

import { Lexer } from "./vendor/marked.esm.js";
import { copyFrom, el, icon } from "./dom.js";
import { highlight } from "./highlight.js";

const OPTIONS = { gfm: true, breaks: true };
const MAX_TEXT = 400_000;
// Longer runs of inline text stay plain: emphasis is matched in quadratic time.
const MAX_INLINE = 12_000;
const MAX_CELLS = 20_000;
const DEEP = /^(?:[ \t]*(?:>|[-*+](?=\s)|\d{1,9}[.)](?=\s))){17}/m;
const LINK = /^(?:https?:\/\/|mailto:)[^\s\\]+$/i;

/** Markdown that grows: blocks that stay the same keep their nodes, and so a selection in them. */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.blocks = [];
  }

  update(text) {
    const tokens = tokensOf(text);
    let same = 0;
    while (same < this.blocks.length && this.blocks[same].raw === tokens[same]?.raw) same += 1;
    for (const block of this.blocks.splice(same)) block.node.remove();
    for (const token of tokens.slice(same)) {
      const node = blockNode(token);
      this.root.append(node);
      this.blocks.push({ raw: token.raw, node });
    }
  }
}

function tokensOf(text) {
  if (text.length > MAX_TEXT || DEEP.test(text)) return [{ type: "plain", raw: text, text }];
  const source = text.replace(/\r\n?/g, "\n");
  const lexer = new Lexer(OPTIONS);
  try {
    lexer.blockTokens(source, lexer.tokens);
    for (const { src, tokens } of lexer.inlineQueue) {
      if (src.length > MAX_INLINE) tokens.push({ type: "text", text: src });
      else lexer.inlineTokens(src, tokens);
    }
  } catch {
    return [{ type: "plain", raw: text, text }];
  }
  return lexer.tokens.filter((token) => token.type !== "space" && token.type !== "def");
}

const BLOCKS = {
  heading: (t) => el(`h${Math.min(t.depth + 1, 6)}`, {}, ...inline(t.tokens)),
  paragraph: (t) => el("p", {}, ...inline(t.tokens)),
  text: (t) => el("div", {}, ...(t.tokens ? inline(t.tokens) : [decoded(t.text)])),
  code: (t) => codeBlock(t.text, (t.lang ?? "").split(/\s/)[0]),
  blockquote: (t) => el("blockquote", {}, ...blocks(t.tokens)),
  hr: () => el("hr"),
  list: (t) => list(t),
  table: (t) => table(t),
  checkbox: (t) => checkbox(t),
};

function blockNode(token) {
  const make = BLOCKS[token.type];
  return make ? make(token) : el("p", { class: "plain", textContent: token.text ?? token.raw });
}

const blocks = (tokens) =>
  tokens.filter((t) => t.type !== "space" && t.type !== "def").map(blockNode);

function list(token) {
  const made = el(token.ordered ? "ol" : "ul");
  if (token.ordered && Number.isInteger(token.start)) made.start = token.start;
  for (const item of token.items) {
    made.append(el("li", { class: item.task ? "task" : "" }, ...blocks(item.tokens)));
  }
  return made;
}

const checkbox = (token) =>
  el("input", { type: "checkbox", checked: token.checked, disabled: true });

function table(token) {
  const width = token.header.length;
  const shown = token.rows.slice(0, Math.max(1, Math.floor(MAX_CELLS / width)));
  const row = (cells, tag) =>
    el(
      "tr",
      {},
      ...cells.map((c) => el(tag, { class: c.align ? `to-${c.align}` : "" }, ...inline(c.tokens))),
    );
  const parts = [
    el("thead", {}, row(token.header, "th")),
    el("tbody", {}, ...shown.map((r) => row(r, "td"))),
  ];
  const made = el("div", { class: "table", tabIndex: 0 }, el("table", {}, ...parts));
  const left = token.rows.length - shown.length;
  if (left)
    made.append(
      el("p", { class: "note", textContent: `${left} more rows; copy the answer to have them` }),
    );
  return made;
}

export function codeBlock(code, language = "") {
  const copy = el(
    "button",
    { type: "button", class: "icon", title: "Copy", "aria-label": "Copy code" },
    icon("copy"),
  );
  copy.addEventListener("click", () => copyFrom(copy, code));
  const inner = el("code");
  highlight(inner, code, language);
  return el(
    "figure",
    { class: "code" },
    el("figcaption", {}, el("span", { textContent: language || "text" }), copy),
    el("pre", { tabIndex: 0 }, inner),
  );
}

const INLINE = {
  strong: (t) => el("strong", {}, ...inline(t.tokens)),
  em: (t) => el("em", {}, ...inline(t.tokens)),
  del: (t) => el("del", {}, ...inline(t.tokens)),
  codespan: (t) => el("code", { textContent: t.text }),
  br: () => el("br"),
  link: (t) => link(t.href, inline(t.tokens)),
  image: (t) => link(t.href, [`🖼 ${t.text || t.href}`]),
  escape: (t) => t.text,
  html: (t) => (/^<br\s*\/?>$/i.test(t.text) ? el("br") : t.text),
  checkbox: (t) => checkbox(t),
};

function inline(tokens) {
  return (tokens ?? []).map((t) => {
    const make = INLINE[t.type];
    if (make) return make(t);
    return t.tokens ? el("span", {}, ...inline(t.tokens)) : decoded(t.text ?? t.raw);
  });
}

/** A link that leaves the page; whatever is no web or mail address is shown, but leads nowhere. */
function link(href, children) {
  const target = String(href);
  if (!LINK.test(target))
    return el("span", { class: "dead", title: target.slice(0, 200) }, ...children);
  const safe = {
    href: target,
    target: "_blank",
    rel: "noopener noreferrer nofollow",
    title: target,
  };
  return el("a", safe, ...children);
}

const NAMED = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
  copy: "©",
  hellip: "…",
  mdash: "—",
  ndash: "–",
  times: "×",
  rarr: "→",
  larr: "←",
};

/** Text with its character references read; they become characters, never markup. */
function decoded(text) {
  return text.replace(
    /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|(\w{2,8}));/g,
    (whole, decimal, hex, name) => {
      if (name) return Object.hasOwn(NAMED, name) ? NAMED[name] : whole;
      const code = decimal ? Number(decimal) : parseInt(hex, 16);
      return code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff)
        ? String.fromCodePoint(code)
        : whole;
    },
  );
}
