// Packed weights to rows of bfloat16: a tile of 16 rows, and as many groups as fit 256 columns, at
// a time. First the values of a tile become one or two bytes a column, 16 rows side by side as they
// were; then the bytes of a row are put together; then they are multiplied by the row's scales.

struct UnpackSpan {
  int64_t first, cols;  // cols: padded to the group
  alignas(64) uint8_t tile[2 * kTile * kSpan];
  // Rows that are a power of two apart would share a set of the cache.
  alignas(64) uint8_t row[kTile][2 * kSpan + 64];

  void to_rows(int64_t bytes_per_col) {
    for (int64_t at = 0; at < bytes_per_col * cols; at += 16)
      turn_rows(tile + kTile * at, row[0] + at, sizeof row[0]);
  }
};

// What a tile has in the columns of a span.
static inline void spread(const ling_matrix& w, int64_t tile, UnpackSpan& s) {
  static const uint8_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const int64_t per_col = tile_bytes(w) / padded_cols(w), bytes = per_col * s.cols;
  const uint8_t* from = tile_data(w, tile) + per_col * s.first;
  if (w.format == LING_I4) return expand(from, bytes, load_levels(numbers), s.tile);
  if (w.format == LING_I3) return expand_planes(from, bytes, load_levels(numbers), s.tile);
  if (w.format == LING_FP8) return widen(from, bytes, s.tile);
  if (w.format == LING_BF16) memcpy(s.tile, from, (size_t)bytes);
  if (w.format == LING_I8)
    for (int64_t i = 0; i < bytes; i += 64) store_u8(s.tile + i, flip_sign(load_u8(from + i)));
}

// A code stands for one of 16 values in a group: they are computed once and looked up, 32 at a time
// (where a group ends before, what is too many is overwritten or beyond the span).
static inline void look_up_codes(const uint8_t* codes, int64_t n, f32 levels, f32 scale,
                                 uint16_t* out) {
  uint16_t values[kTile];
  store_bf16(values, mul(levels, scale));
  const Words16 table = load_words16(values);
  for (int64_t k = 0; k < n; k += 32) look_up16(table, codes + k, out + k);
}

static inline void scale_bytes(const int8_t* x, int64_t n, f32 scale, uint16_t* out) {
  for (int64_t k = 0; k < n; k += 16) store_bf16(out + k, mul(load_i8(x + k), scale));
}

static inline void scale_pairs(const uint16_t* x, int64_t n, f32 scale, uint16_t* out) {
  for (int64_t k = 0; k < n; k += 16) store_bf16(out + k, mul(load_bf16(x + k), scale));
}

static inline f32 levels_of(int32_t format) {
  const uint8_t* bytes = bytes_of_levels(format);
  int8_t levels[kTile];
  for (int i = 0; i < kTile; ++i) levels[i] = (int8_t)(bytes[i] - 128);
  return load_i8(levels);
}

// Row r of a span times its scales; `out` has room for 16 columns more than the span.
static inline void scale_row(const ling_matrix& w, const void* scales, const UnpackSpan& s,
                             int64_t r, f32 levels, uint16_t* out) {
  const uint8_t* x = s.row[r];
  if (w.format == LING_BF16) return (void)memcpy(out, x, (size_t)(2 * s.cols));
  for (int64_t k = 0, g = s.first / w.group; k < s.cols; k += w.group, ++g) {
    if (w.format == LING_FP8) {
      scale_pairs((const uint16_t*)x + k, w.group, set(((const float*)scales)[g]), out + k);
      continue;
    }
    const f32 scale = set(from_bf16(((const uint16_t*)scales)[g * kTile + r]));
    if (w.format == LING_I8)
      scale_bytes((const int8_t*)x + k, w.group, scale, out + k);
    else
      look_up_codes(x + k, w.group, levels, scale, out + k);
  }
}

// The rows of one tile, of the matrix [rows, cols] at `out`.
static void unpack(const ling_matrix& w, int64_t tile, uint16_t* out) {
  const int64_t left_rows = w.rows - tile * kTile, rows = left_rows < kTile ? left_rows : kTile;
  const int64_t most = kSpan / w.group * w.group, padded = padded_cols(w);
  const void* scales = static_cast<const uint8_t*>(w.scales) + tile * tile_scale_bytes(w);
  const f32 levels = levels_of(w.format);
  UnpackSpan s;
  for (s.first = 0; s.first < padded; s.first += s.cols) {
    s.cols = padded - s.first < most ? padded - s.first : most;
    spread(w, tile, s);
    s.to_rows(bf16_activations(w.format) ? 2 : 1);
    const int64_t left_cols = w.cols - s.first, have = left_cols < s.cols ? left_cols : s.cols;
    const bool fits = s.cols + (w.group % 32 ? 16 : 0) <= left_cols;
    for (int64_t r = 0; r < rows; ++r) {
      uint16_t *to = out + (tile * kTile + r) * w.cols + s.first, last[kSpan + 16];
      scale_row(w, scales, s, r, levels, fits ? to : last);
      if (!fits) memcpy(to, last, (size_t)have * 2);
    }
  }
}
