// The live expert map: layers × experts, filled by the tokens of an answer as they come.

import { el, iconButton } from "./dom.js";
import { Grid } from "./grid.js";

/** The panel: grid, what is under the pointer, the answer's tokens, and one token's own experts. */
export class MapPanel {
  constructor(root, { onClose }) {
    this.root = root;
    this.trace = null;
    this.canvas = el("canvas", {
      tabIndex: 0,
      role: "img",
      "aria-label": "Share of each expert in each layer",
    });
    this.grid = new Grid(this.canvas);
    this.said = el("p", { class: "said" });
    this.tokens = el("div", {
      class: "tokens",
      role: "listbox",
      tabIndex: 0,
      "aria-label": "Tokens of the answer",
    });
    this.detail = el("div", { class: "detail" });
    this.summary = el("p", { class: "note" });
    this.grow = iconButton("grow", "Wide map", () => this.widen());
    root.replaceChildren(
      el(
        "header",
        {},
        el("h2", { textContent: "Expert map" }),
        this.grow,
        iconButton("close", "Hide the expert map", onClose),
      ),
      this.summary,
      this.canvas,
      this.said,
      el("h3", { textContent: "Tokens of this answer" }),
      this.tokens,
      this.detail,
    );
    this.listen();
    this.show(null);
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => this.hover(this.grid.cellAt(event)));
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
    this.canvas.addEventListener("keydown", (event) => this.moveHover(event));
    this.tokens.addEventListener("click", (event) => {
      const at = event.target.closest("[role=option]");
      if (at)
        this.select(Number(at.dataset.at) === this.grid.selected ? -1 : Number(at.dataset.at));
    });
    this.tokens.addEventListener("keydown", (event) => this.moveSelection(event));
    new ResizeObserver(() => this.grid.layout()).observe(this.root);
  }

  /** Draw again, as after a change of colours. */
  redraw() {
    this.grid.redraw();
  }

  widen() {
    this.grow.setAttribute("aria-pressed", String(this.root.classList.toggle("wide")));
  }

  /** Show another answer's trace; null where there is none. */
  show(trace) {
    this.trace = trace;
    this.grid.show(trace);
    this.tokens.replaceChildren();
    this.detail.replaceChildren();
    this.root.classList.toggle("empty", !trace);
    this.follow();
  }

  /** Take in what the trace has got since the last time; rows from `first` on are new. */
  follow(first = this.trace?.rows ?? 0) {
    if (!this.trace) {
      this.summary.textContent = "Send a message: each token lights the experts that it takes.";
      return;
    }
    this.addTokens();
    const { layers, numExperts, perToken, rows } = this.trace;
    this.summary.textContent = `${layers.length} layers × ${numExperts} experts, ${perToken} for each token · ${rows} tokens`;
    this.hover(this.grid.hovered);
    this.grid.light(first);
  }

  addTokens() {
    const { tokens } = this.trace;
    const made = [];
    for (let at = this.tokens.childElementCount; at < tokens.length; at += 1) {
      const text = tokens[at].text.replaceAll("\n", "⏎");
      const chance =
        tokens[at].logprob === undefined
          ? ""
          : ` · probability ${percent(Math.exp(tokens[at].logprob))}`;
      const option = {
        id: `token-${at}`,
        role: "option",
        "aria-selected": "false",
        title: `token ${at + 1}${chance}`,
      };
      made.push(
        el("span", {
          ...option,
          data: { at: String(at) },
          class: text.trim() ? "" : "blank",
          textContent: text || "∅",
        }),
      );
    }
    const atEnd = this.tokens.scrollTop + this.tokens.clientHeight > this.tokens.scrollHeight - 30;
    this.tokens.append(...made);
    if (atEnd && this.grid.selected < 0) this.tokens.scrollTop = this.tokens.scrollHeight;
  }

  // ---- one token ------------------------------------------------------------------------------

  select(at) {
    if (!this.trace || at >= this.trace.rows) return;
    this.tokens.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    this.grid.selected = at;
    const option = this.tokens.children[at];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.tokens.setAttribute("aria-activedescendant", option.id);
    this.detail.replaceChildren(...(at < 0 ? [] : [this.tokenTable(at)]));
    this.grid.redraw();
  }

  moveSelection(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
    if (event.key === "Escape" && this.grid.selected >= 0) {
      event.stopPropagation();
      this.select(-1);
    }
    if (!(event.key in steps) || !this.trace?.rows) return;
    event.preventDefault();
    this.select(Math.min(Math.max(this.grid.selected + steps[event.key], 0), this.trace.rows - 1));
  }

  tokenTable(at) {
    const { trace } = this;
    const rows = trace.layers.map((number, layer) => {
      const taken = trace.row(at, layer);
      const whole = taken.reduce((sum, { weight }) => sum + weight, 0) || 1;
      const chips = taken.map(({ expert, weight }) =>
        el(
          "span",
          { class: "expert", title: `weight ${weight.toFixed(3)}` },
          String(expert),
          el("small", { textContent: percent(weight / whole) }),
        ),
      );
      return el(
        "tr",
        {},
        el("th", { scope: "row", textContent: String(number) }),
        el("td", {}, ...chips),
      );
    });
    const text = JSON.stringify(trace.tokens[at]?.text ?? "").slice(1, -1);
    return el(
      "table",
      {},
      el(
        "caption",
        {},
        "Experts of token ",
        el("b", { textContent: String(at + 1) }),
        " ",
        el("code", { textContent: text || "∅" }),
      ),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { textContent: "layer" }),
          el("th", { textContent: "experts, the heaviest first" }),
        ),
      ),
      el("tbody", {}, ...rows),
    );
  }

  hover(cell) {
    this.grid.hovered = cell;
    this.said.textContent = cell ? this.sentence(cell) : "Point at a cell, or at a token below.";
    this.grid.redraw();
  }

  sentence({ layer, expert }) {
    const share = this.trace.share(layer, expert);
    return (
      `Layer ${this.trace.layers[layer]} · expert ${expert} · taken by ${percent(share.tokens)} of tokens · ` +
      `${percent(share.weight)} of the layer's weight`
    );
  }

  moveHover(event) {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (!(event.key in moves) || !this.trace) return;
    event.preventDefault();
    const [down, right] = moves[event.key];
    const { layer, expert } = this.grid.hovered ?? { layer: 0, expert: 0 };
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    this.hover({
      layer: within(layer + down, this.trace.layers.length),
      expert: within(expert + right, this.trace.numExperts),
    });
  }
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
