// The experts of an answer's tokens, as the stream brings them: arrays that grow, and their sums.

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** All tokens of one answer: `rows` of `numLayers` × `perToken` experts, and what they sum up to. */
export class Trace {
  constructor({ layers, num_experts, num_experts_per_tok }) {
    this.layers = layers;
    this.numExperts = num_experts;
    this.perToken = num_experts_per_tok;
    this.rowSize = layers.length * num_experts_per_tok;
    this.tokens = [];
    this.rows = 0;
    this.ids = new Uint16Array(0);
    this.weights = new Float32Array(0);
    /** How often each expert of each layer was taken, and the sum of its weights. */
    this.counts = new Float64Array(layers.length * num_experts);
    this.sums = new Float64Array(layers.length * num_experts);
    this.totals = new Float64Array(layers.length);
  }

  /** Add the experts and texts that an event's choice brings, if it brings any. */
  add(choice) {
    for (const { token, logprob } of choice.logprobs?.content ?? [])
      this.tokens.push({ text: token, logprob });
    if (!choice.routed_experts) return false;
    const shape = choice.routed_experts_shape;
    if (shape[1] * shape[2] !== this.rowSize) return false;
    const ids = new Int32Array(bytesOf(choice.routed_experts).buffer);
    const weights = new Float32Array(bytesOf(choice.routed_expert_weights).buffer);
    this.append(ids, weights);
    return ids.length > 0;
  }

  append(ids, weights) {
    const used = this.rows * this.rowSize;
    this.ids = withRoom(this.ids, used + ids.length);
    this.weights = withRoom(this.weights, used + ids.length);
    this.ids.set(ids, used);
    this.weights.set(weights, used);
    for (let i = 0; i < ids.length; i += 1) {
      const layer = Math.floor((i % this.rowSize) / this.perToken);
      const cell = layer * this.numExperts + ids[i];
      this.counts[cell] += 1;
      this.sums[cell] += weights[i];
      this.totals[layer] += weights[i];
    }
    this.rows += ids.length / this.rowSize;
  }

  /** Share of tokens that took an expert, and its share of all weights in that layer. */
  share(layer, expert) {
    const cell = layer * this.numExperts + expert;
    return {
      tokens: this.rows ? this.counts[cell] / this.rows : 0,
      weight: this.totals[layer] ? this.sums[cell] / this.totals[layer] : 0,
    };
  }

  /** Experts of one token in one layer, the heaviest first. */
  row(token, layer) {
    const start = token * this.rowSize + layer * this.perToken;
    const row = Array.from({ length: this.perToken }, (_, k) => ({
      expert: this.ids[start + k],
      weight: this.weights[start + k],
    }));
    return row.sort((a, b) => b.weight - a.weight);
  }
}

function withRoom(array, size) {
  if (array.length >= size) return array;
  const larger = new array.constructor(Math.max(size, 2 * array.length));
  larger.set(array);
  return larger;
}
