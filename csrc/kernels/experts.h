// SwiGLU of one expert on its own rows in float32, and its gradient: for training with experts that
// are small. There are hundreds of them, each with dozens of rows, so that calls of a library of
// products take longer than the products.

// [rows][cols] as [cols][rows], whose rows are `stride` apart; rows a multiple of 16.
static inline void expert_transpose(const float* x, int64_t rows, int64_t cols, int64_t stride,
                                    float* to) {
  for (int64_t r = 0; r < rows; r += 16)
    for (int64_t k = 0; k < cols; ++k) {
      float column[16];
      for (int i = 0; i < 16; ++i) column[i] = x[(r + i) * cols + k];
      memcpy(to + k * stride + r, column, sizeof column);
    }
}

// y of all rows of an expert; gate · x and up · x of them are kept side by side in `gu`.
static void expert_forward(const ExpertTask& t, float* scratch) {
  const int64_t D = t.hidden, F = t.width;
  float* gate_up = scratch;           // [D][2F]
  float* down = gate_up + 2 * D * F;  // [F][D]
  float* h = down + D * F;            // [rows of a block][F]
  expert_transpose(t.gate, F, D, 2 * F, gate_up);
  expert_transpose(t.up, F, D, 2 * F, gate_up + F);
  expert_transpose(t.down, D, F, D, down);
  for (int64_t r = 0; r < t.rows; r += kExpertBlock) {
    const int64_t n = t.rows - r < kExpertBlock ? t.rows - r : kExpertBlock;
    float* gu = t.gu + r * 2 * F;
    small_product({t.x + r * D, D, 1}, n, gate_up, 2 * F, D, 2 * F, gu, 2 * F, false);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t f = 0; f < F; f += 16) {
        const f32 g = load(gu + i * 2 * F + f);
        store(h + i * F + f, mul(mul(g, sigmoid16(g)), load(gu + i * 2 * F + F + f)));
      }
    small_product({h, F, 1}, n, down, D, F, D, t.y + r * D, D, false);
  }
}

// Gradients of an expert's rows and, unless its pointers are null, of its weights.
static void expert_backward(const ExpertTask& t, float* scratch) {
  const int64_t D = t.hidden, F = t.width;
  float* dh = scratch;                // [rows of a block][F]
  float* h = dh + kExpertBlock * F;   // the same
  float* dgu = h + kExpertBlock * F;  // [rows of a block][2F]
  for (int64_t r = 0; r < t.rows; r += kExpertBlock) {
    const int64_t n = t.rows - r < kExpertBlock ? t.rows - r : kExpertBlock;
    const float *x = t.x + r * D, *dy = t.dy + r * D, *gu = t.gu + r * 2 * F;
    small_product({dy, D, 1}, n, t.down, F, D, F, dh, F, false);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t f = 0; f < F; f += 16) {
        const f32 g = load(gu + i * 2 * F + f), u = load(gu + i * 2 * F + F + f);
        const f32 s = sigmoid16(g), silu = mul(g, s), d = load(dh + i * F + f);
        store(h + i * F + f, mul(silu, u));
        // d silu(g) = s · (1 + g · (1 - s)) = s + silu · (1 - s)
        store(dgu + i * 2 * F + f, mul(mul(d, u), fma(silu, sub(set(1), s), s)));
        store(dgu + i * 2 * F + F + f, mul(d, silu));
      }
    small_product({dgu, 2 * F, 1}, n, t.gate, D, F, D, t.dx + r * D, D, false);
    small_product({dgu + F, 2 * F, 1}, n, t.up, D, F, D, t.dx + r * D, D, true);
    if (!t.dgate) continue;
    small_product({dgu, 1, 2 * F}, F, x, D, n, D, t.dgate, D, r > 0);
    small_product({dgu + F, 1, 2 * F}, F, x, D, n, D, t.dup, D, r > 0);
    small_product({dy, 1, D}, D, h, F, n, F, t.ddown, F, r > 0);
  }
}
