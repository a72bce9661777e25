// The grid of the expert map: a cell for each expert, a band of lines for each layer.

const LABEL = 26;
const GAP = 3;
const MAX_CELL = 24;
const STEPS = 64;
const GLOW_S = 0.7;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Draws a trace on a canvas, with what is selected and pointed at, and lets new tokens glow. */
export class Grid {
  constructor(canvas) {
    this.canvas = canvas;
    this.selected = -1;
    this.hovered = null;
    this.show(null);
  }

  show(trace) {
    this.trace = trace;
    this.selected = -1;
    this.hovered = null;
    this.glow = trace ? new Float32Array(trace.counts.length) : null;
    this.layout();
  }

  /** Let the experts of the rows from `first` on light up. */
  light(first) {
    const { trace } = this;
    for (let i = first * trace.rowSize; !still.matches && i < trace.rows * trace.rowSize; i += 1) {
      const layer = Math.floor((i % trace.rowSize) / trace.perToken);
      this.glow[layer * trace.numExperts + trace.ids[i]] = 1;
    }
    this.redraw();
  }

  /** Break the experts of a layer into lines so that cells are as large as the panel allows. */
  layout() {
    if (!this.trace) return;
    const width = this.canvas.parentElement.clientWidth - 32 - LABEL;
    if (width < 40) return;
    const { numExperts, layers } = this.trace;
    const most = Math.max(innerHeight * 0.62, 260);
    let best = null;
    for (const lines of [1, 2, 4, 8, 16]) {
      const perLine = Math.ceil(numExperts / lines);
      const cell = Math.min(Math.floor((width / perLine) * 2) / 2, MAX_CELL);
      const height = layers.length * (lines * cell + GAP);
      // Another line has to be worth it: cells a little larger would leave half the width empty.
      if (cell >= 1 && (!best || (cell > 1.25 * best.cell && height <= most)))
        best = { lines, perLine, cell, height };
    }
    if (!best) return;
    this.grid = best;
    const size = { width: LABEL + best.perLine * best.cell, height: best.height };
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(size.width * scale);
    this.canvas.height = Math.round(size.height * scale);
    this.canvas.style.width = `${size.width}px`;
    this.canvas.style.height = `${size.height}px`;
    this.redraw();
  }

  /** Draw with the next frame, and go on while cells glow. */
  redraw() {
    this.isDue ||= requestAnimationFrame((now) => {
      this.isDue = 0;
      const passed = Math.min((now - (this.drawn ?? now)) / 1000, 0.1);
      this.drawn = now;
      if (this.draw(passed)) this.redraw();
      else this.drawn = null;
    });
  }

  draw(passed) {
    const { trace, canvas } = this;
    if (!trace || !this.grid || !canvas.clientWidth) return false;
    const pen = canvas.getContext("2d");
    const scale = devicePixelRatio || 1;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const look = looks(canvas);
    const own = this.selected < 0 ? null : this.ownCells();
    let isGlowing = false;
    trace.layers.forEach((number, layer) => {
      pen.fillStyle = look.label;
      pen.fillText(String(number), 4, this.position(layer, 0).y + 9);
      for (let expert = 0; expert < trace.numExperts; expert += 1) {
        const cell = layer * trace.numExperts + expert;
        this.glow[cell] = Math.max(this.glow[cell] - passed / GLOW_S, 0);
        isGlowing ||= this.glow[cell] > 0;
        this.drawCell(pen, look, layer, expert, own?.get(cell) ?? (own ? 0 : null));
      }
    });
    return isGlowing;
  }

  drawCell(pen, look, layer, expert, ownWeight) {
    const { x, y } = this.position(layer, expert);
    const side = this.grid.cell - (this.grid.cell > 4 ? 1 : 0.5);
    const level =
      1 - Math.exp(-0.8 * this.trace.numExperts * this.trace.share(layer, expert).weight);
    pen.globalAlpha = ownWeight === 0 ? 0.35 : 1;
    pen.fillStyle = look.ramp[Math.min(Math.floor(level * STEPS), STEPS - 1)];
    pen.fillRect(x, y, side, side);
    if (ownWeight) {
      pen.globalAlpha = 0.55 + 0.45 * ownWeight;
      pen.fillStyle = look.own;
      pen.fillRect(x - 0.5, y - 0.5, side + 1, side + 1);
    } else if (ownWeight === null && this.glow[layer * this.trace.numExperts + expert] > 0) {
      pen.globalAlpha = 0.75 * this.glow[layer * this.trace.numExperts + expert];
      pen.fillStyle = look.glow;
      pen.fillRect(x, y, side, side);
    }
    pen.globalAlpha = 1;
    if (this.hovered?.layer === layer && this.hovered.expert === expert) {
      pen.strokeStyle = look.mark;
      pen.strokeRect(x - 1, y - 1, side + 2, side + 2);
    }
  }

  /** Cells of the selected token, with their weights relative to the layer's heaviest. */
  ownCells() {
    const cells = new Map();
    this.trace.layers.forEach((_, layer) => {
      const taken = this.trace.row(this.selected, layer);
      for (const { expert, weight } of taken) {
        cells.set(layer * this.trace.numExperts + expert, weight / (taken[0].weight || 1));
      }
    });
    return cells;
  }

  position(layer, expert) {
    const { lines, perLine, cell } = this.grid;
    return {
      x: LABEL + (expert % perLine) * cell,
      y: layer * (lines * cell + GAP) + Math.floor(expert / perLine) * cell,
    };
  }

  cellAt(event) {
    if (!this.trace || !this.grid) return null;
    const { lines, perLine, cell } = this.grid;
    const layer = Math.floor(event.offsetY / (lines * cell + GAP));
    const line = Math.floor((event.offsetY - layer * (lines * cell + GAP)) / cell);
    const column = Math.floor((event.offsetX - LABEL) / cell);
    const expert = line * perLine + column;
    const isInside =
      layer < this.trace.layers.length && line < lines && column >= 0 && column < perLine;
    return isInside && expert < this.trace.numExperts ? { layer, expert } : null;
  }
}

/** The colours of the theme, as the style sheet has them; the ramp in fine steps. */
function looks(node) {
  const style = getComputedStyle(node);
  const value = (name) => style.getPropertyValue(name).trim();
  const key = value("--map-ramp");
  if (looks.key !== key) {
    looks.key = key;
    looks.ramp = ramp(key.split(/\s+/));
  }
  return {
    ramp: looks.ramp,
    own: value("--map-own"),
    glow: value("--map-glow"),
    label: value("--map-label"),
    mark: value("--map-mark"),
  };
}

function ramp(stops) {
  const colours = stops.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({ length: STEPS }, (_, i) => {
    const at = (i / (STEPS - 1)) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    const mixed = colours[low].map((c, k) =>
      Math.round(c + (colours[low + 1][k] - c) * (at - low)),
    );
    return `rgb(${mixed.join(" ")})`;
  });
}
