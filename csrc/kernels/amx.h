// Products of many rows on the matrix unit (AMX): 16 rows of activations times a tile of 16
// outputs. Integers inside a group are exact here as everywhere, and groups are added in the same
// order, so the bits are those of product.h.

constexpr int64_t kUnitRows = 16;  // of a unit's tile
constexpr int64_t kUnitFrom = 7;   // rows from which it pays

// Tile registers; sums and rows have one set for whole blocks and one for the rows left over.
enum { kSumA = 0, kSumB = 1, kRows = 2, kWeights = 3, kLeftOver = 4 };

template <int reg>
static inline void unit_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(reg));
}
template <int reg>
static inline void unit_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(reg) : "memory");
}
template <int reg>
static inline void unit_store(void* p) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(int64_t(64)), "i"(reg) : "memory");
}
template <int sum, int rows>
static inline void unit_dot() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(rows), "i"(kWeights));
}

// Shapes of the tile registers (Intel SDM, LDTILECFG): rows and bytes of a row.
static void unit_begin(int64_t group, int64_t left_over) {
  alignas(64) uint8_t config[64] = {1};  // palette
  const auto shape = [&](int reg, int64_t rows, int64_t bytes) {
    config[16 + 2 * reg] = (uint8_t)bytes, config[48 + reg] = (uint8_t)rows;
  };
  shape(kWeights, group / 4, 64);
  shape(kSumA, kUnitRows, 64), shape(kSumB, kUnitRows, 64), shape(kRows, kUnitRows, group);
  if (left_over) {
    shape(kLeftOver + kSumA, left_over, 64), shape(kLeftOver + kSumB, left_over, 64);
    shape(kLeftOver + kRows, left_over, group);
  }
  asm volatile("ldtilecfg %0" ::"m"(config));
}
// Registers in their initial state cost nothing when threads are switched.
static void unit_end() { asm volatile("tilerelease"); }

// Some groups of one tile: unpacked weights (signed bytes), scales, and what to ask memory for on
// the way: `lines` cache lines a group from `next` on.
struct UnitPart {
  int64_t groups, group;
  const uint8_t* bytes;
  const uint16_t* scales;
  const uint8_t* next;
  int64_t lines;
};

template <int bank, int side>
static inline void unit_make(const uint8_t* weights, const int8_t* a, int64_t stride) {
  unit_zero<bank + side>();
  unit_load<bank + kRows>(a, stride);
  unit_load<kWeights>(weights, 64);
  unit_dot<bank + side, bank + kRows>();
}

// `x`: the rows' scales in this group.
template <int R>
static inline void unit_add(const int32_t* sums, const uint16_t* scales, const float* x,
                            f32 (&acc)[R]) {
  const f32 ws = load_bf16(scales);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
    acc[r] = fma(to_f32(_mm512_load_si512(sums + kTile * r)), mul(ws, set(x[r])), acc[r]);
}

// y[r][0 .. 16) += the part's groups, for R rows; `x` has the rows' scales, 16 a group. Three steps
// overlap: sums of one group are made, those of the group before are stored, and those of the one
// before that are added. Waiting for what was just stored would take longer than all the rest.
template <int R>
static void unit_rows(const UnitPart& part, const int8_t* a, int64_t stride, const float* x,
                      float (*y)[kTile]) {
  constexpr int bank = R == kUnitRows ? 0 : kLeftOver;
  alignas(64) int32_t even[R * kTile], odd[R * kTile];
  const int64_t groups = part.groups, group = part.group, lines = part.lines;
  const uint8_t* weights = part.bytes;
  const uint16_t* scales = part.scales;
  const uint8_t* next = part.next;
  f32 acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = load(y[r]);
  unit_make<bank, 0>(weights, a, stride);
  for (int64_t g = 0; g < groups; g += 2) {
    for (int64_t i = 0; i < 2 * lines; ++i, next += 64) prefetch(next);
    if (g + 1 < groups) unit_make<bank, 1>(weights + kTile * group, a + group, stride);
    unit_store<bank + 0>(even);
    if (g) unit_add<R>(odd, scales - kTile, x - kUnitRows, acc);
    if (g + 1 < groups) {
      weights += 2 * kTile * group, a += 2 * group;
      if (g + 2 < groups) unit_make<bank, 0>(weights, a, stride);
      unit_store<bank + 1>(odd);
    }
    unit_add<R>(even, scales, x, acc);
    scales += 2 * kTile, x += 2 * kUnitRows;
  }
  if (groups % 2 == 0) unit_add<R>(odd, scales - kTile, x - kUnitRows, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(y[r], acc[r]);
}

typedef void (*UnitRows)(const UnitPart&, const int8_t*, int64_t, const float*, float (*)[kTile]);
static const UnitRows unit_rows_of[kUnitRows + 1] = {
    nullptr,       unit_rows<1>,  unit_rows<2>,  unit_rows<3>,  unit_rows<4>,  unit_rows<5>,
    unit_rows<6>,  unit_rows<7>,  unit_rows<8>,  unit_rows<9>,  unit_rows<10>, unit_rows<11>,
    unit_rows<12>, unit_rows<13>, unit_rows<14>, unit_rows<15>, unit_rows<16>};

// The rows' distance if they are evenly spaced, else 0.
static int64_t unit_stride(const Product& p) {
  const int8_t* first = static_cast<const int8_t*>(p.x[0].values);
  const int64_t stride = static_cast<const int8_t*>(p.x[1].values) - first;
  for (int64_t r = 2; r < p.m; ++r)
    if (static_cast<const int8_t*>(p.x[r].values) != first + r * stride) return 0;
  return stride;
}

static bool unit_fits(const Product& p) {
  return p.m >= kUnitFrom && !bf16_activations(p.w.format) && p.w.group <= 64 && unit_stride(p);
}

// Groups [from, from + n) of a tile as signed bytes.
static void unit_unpack(const ling_matrix& w, const uint8_t* tile, int64_t from, int64_t n,
                        const Levels& levels, uint8_t* to) {
  const int64_t start = kTile * w.group * from, bytes = kTile * w.group * n;
  if (w.format == LING_I4) return expand(tile + start / 2, bytes / 2, levels, to);
  if (w.format == LING_I3) return expand_planes(tile + start / 8 * 3, bytes / 8 * 3, levels, to);
  for (int64_t i = 0; i < bytes; i += 64) store_u8(to + i, flip_sign(load_u8(tile + start + i)));
}

// The scales of up to 128 rows: for every block of 16 and every group 16 values.
static void unit_scales(const Row* x, int64_t rows, int64_t groups, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t g = 0; g < groups; ++g)
      to[(r / kUnitRows * groups + g) * kUnitRows + r % kUnitRows] = x[r].scales[g];
}

constexpr int64_t kUnitBlocks = 8;  // blocks of rows multiplied with a part of a tile one by one

static void unit_product(const Product& p, int64_t begin, int64_t end, uint8_t* scratch) {
  const Levels levels = {
      flip_sign(load_levels(bytes_of_levels(p.w.format)).table)};  // signed, as all weights here
  const int64_t padded = padded_cols(p.w), group = p.w.group, groups = padded / group;
  const int64_t stride = unit_stride(p), bytes = tile_bytes(p.w);
  const int64_t part = 512 / group;  // groups: 8 KiB stay in the first-level cache
  const int64_t together = p.epilogue == Epilogue::kSwiGLU ? 2 : 1;  // a gate tile and its up tile
  // Every block of rows asks for its share of the tiles that come next, so that memory never rests.
  const int64_t lines = ceil_div(bytes, 64 * groups * ceil_div(p.m, kUnitRows));
  float* scales = reinterpret_cast<float*>(scratch + 2 * kTile * padded);
  alignas(64) float y[2][kUnitBlocks * kUnitRows][kTile];
  unit_begin(group, p.m % kUnitRows);
  for (int64_t m = 0; m < p.m; m += kUnitBlocks * kUnitRows) {
    const int64_t some = p.m - m < kUnitBlocks * kUnitRows ? p.m - m : kUnitBlocks * kUnitRows;
    unit_scales(p.x + m, some, groups, scales);
    for (int64_t tile = begin; tile < end; tile += together) {
      for (int64_t i = 0; i < together; ++i) {
        const uint8_t* data = static_cast<const uint8_t*>(p.w.data) + (tile + i) * bytes;
        const uint16_t* ws = static_cast<const uint16_t*>(p.w.scales) + (tile + i) * kTile * groups;
        __builtin_memset(y[i], 0, sizeof y[i][0] * (size_t)some);
        for (int64_t g = 0; g < groups; g += part) {
          const int64_t n = groups - g < part ? groups - g : part;
          unit_unpack(p.w, data, g, n, levels, scratch);
          for (int64_t r = 0; r < some; r += kUnitRows) {
            const int64_t rows = some - r < kUnitRows ? some - r : kUnitRows;
            const int64_t share = 64 * lines * (groups * ((m + r) / kUnitRows) + g);
            const UnitPart w = {n,
                                group,
                                scratch,
                                ws + kTile * g,
                                data + together * bytes + share,
                                share < bytes ? lines : 0};
            unit_rows_of[rows](w, static_cast<const int8_t*>(p.x[m + r].values) + g * group, stride,
                               scales + (r * groups + kUnitRows * g), y[i] + r);
          }
        }
      }
      for (int64_t r = 0; r < some; ++r) {
        const auto finished = [&](int t) {
          const f32 v = load(y[t][r]);
          return p.low_rank ? add_low_rank(p, m + r, tile + t, v) : v;
        };
        if (together == 2)
          store(p.y[m + r] + tile / 2 * kTile, swiglu(finished(0), finished(1)));
        else
          finish(p, m + r, tile, finished(0));
      }
    }
  }
  unit_end();
}
