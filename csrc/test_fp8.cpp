// FP8 of training against its definition, tile by tile, of any sizes, strides and groups; and wrong
// arguments.
#include <algorithm>

#include "internal.h"
#include "test.h"

using namespace ling;

namespace {

constexpr int64_t kTileSize = 128;

// The nearest E4M3 value of a magnitude, by trying all of them; of two, the one with an even code.
int nearest_code(double x) {
  int best = 0;
  double error = 1e300;
  for (int code = 0; code < 127; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    const double value =
        exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(double(mantissa), -9);
    const double off = fabs(x - value);
    if (off < error || (off == error && code % 2 == 0)) best = code, error = off;
  }
  return best;
}

struct Values {
  Array<uint16_t> narrow;
  Array<float> wide;
  ling_fp8 q = {};
  Array<int64_t> ends;
  float at(int64_t r, int64_t c) const {
    return q.x_is_bf16 ? from_bf16(narrow.at[r * q.stride + c]) : wide.at[r * q.stride + c];
  }
};

Values random_values(Random& r) {
  Values v;
  ling_fp8& q = v.q;
  const int64_t sizes[] = {1, 16, 40, 128, 150, 270};
  q.cols = r.between(1, r.pick(sizes)), q.stride = q.cols + r.below(2) * r.between(1, 9);
  q.num_groups = r.between(1, 3), v.ends = Array<int64_t>(q.num_groups + 1);
  for (int64_t g = 0; g < q.num_groups; ++g)
    v.ends[g + 1] = v.ends[g] + r.between(0, r.pick(sizes));
  q.ends = v.ends.data(), q.rows = v.ends[q.num_groups];
  q.tiles = int32_t(r.below(3)), q.power_of_two = int32_t(r.below(2));
  q.x_is_bf16 = int32_t(r.below(2));
  const int64_t n = q.rows ? (q.rows - 1) * q.stride + q.cols : 0;
  v.narrow = Array<uint16_t>(q.x_is_bf16 ? n : 0), v.wide = Array<float>(q.x_is_bf16 ? 0 : n, 1);
  const float size = ldexpf(1, int(r.between(-30, 30)));
  for (int64_t i = 0; i < n; ++i) {
    const float x = r.below(5) ? r.normal() * size : r.normal() * size * 1e-4f;
    if (q.x_is_bf16) v.narrow[i] = to_bf16(x);
    if (!q.x_is_bf16) v.wide[i] = x;
  }
  q.x = q.x_is_bf16 ? static_cast<const void*>(v.narrow.data()) : v.wide.data();
  return v;
}

struct Area {
  int64_t row, rows, col, cols;
};

void check_tile(const Values& v, const Area& a, float inverse) {
  const ling_fp8& q = v.q;
  float top = 0;
  for (int64_t r = a.row; r < a.row + a.rows; ++r)
    for (int64_t c = a.col; c < a.col + a.cols; ++c) top = std::max(top, fabsf(v.at(r, c)));
  float enc = top > 0 ? 448 / top : 1;
  if (top > 0 && q.power_of_two) enc = ldexpf(1, ilogbf(enc));
  CHECK(inverse == 1 / enc, "scale %g instead of %g", inverse, 1 / enc);
  for (int64_t r = a.row; r < a.row + a.rows; ++r)
    for (int64_t c = a.col; c < a.col + a.cols; ++c) {
      const float z = v.at(r, c) * enc;
      const int code = nearest_code(fabs(double(z))) | (signbit(z) ? 128 : 0);
      CHECK(q.codes[r * q.cols + c] == code, "%g: code %d instead of %d", z,
            q.codes[r * q.cols + c], code);
    }
}

void check_values(Values& v) {
  ling_fp8& q = v.q;
  const int64_t across = q.tiles == LING_FP8_COLUMNS ? 1 : kTileSize;
  const int64_t tiles = (q.cols + across - 1) / across;
  std::vector<Area> rows;
  for (int64_t g = 0; g < q.num_groups; ++g)
    for (int64_t r = v.ends[g]; r < v.ends[g + 1];) {
      const int64_t n = q.tiles == LING_FP8_ROWS ? 1 : std::min(kTileSize, v.ends[g + 1] - r);
      rows.push_back({r, n, 0, 0}), r += n;
    }
  Array<uint8_t> codes(q.rows * q.cols);
  Array<uint16_t> rounded(q.rows * q.cols, 1), widened(q.rows * q.cols);
  Array<float> inverse(int64_t(rows.size()) * tiles);
  q.codes = codes.data(), q.rounded = rounded.data(), q.inverse = inverse.data();
  CHECK(!ling_quantise_fp8(&q), "quantise");
  for (size_t i = 0; i < rows.size(); ++i)
    for (int64_t t = 0; t < tiles; ++t) {
      const Area a = {rows[i].row, rows[i].rows, t * across, std::min(across, q.cols - t * across)};
      check_tile(v, a, inverse[int64_t(i) * tiles + t]);
      for (int64_t r = a.row; r < a.row + a.rows; ++r)
        for (int64_t c = a.col; c < a.col + a.cols; ++c) {
          uint16_t wanted;
          const float scale = inverse[int64_t(i) * tiles + t];
          CHECK(!ling_widen_fp8(q.codes + r * q.cols + c, 1, 1, &scale, 128, &wanted), "widen");
          CHECK(rounded[r * q.cols + c] == wanted, "rounded %x, widened %x",
                rounded[r * q.cols + c], wanted);
        }
    }
}

void check_refused() {
  float x[4] = {1, 2, 3, 4};
  int64_t ends[] = {0, 2};
  const ling_fp8 good = {x, 0, LING_FP8_COLUMNS, 1, 2, 2, 2, ends, 1, nullptr, nullptr, nullptr};
  CHECK(!ling_quantise_fp8(&good), "no outputs are wanted");
  CHECK(ling_quantise_fp8(nullptr) == LING_BAD_ARGUMENT, "null");
  const auto refused = [&](auto change) {
    ling_fp8 bad = good;
    change(bad);
    CHECK(ling_quantise_fp8(&bad) == LING_BAD_ARGUMENT, "accepted");
  };
  refused([](ling_fp8& q) { q.x = nullptr; });
  refused([](ling_fp8& q) { q.stride = 1; });
  refused([](ling_fp8& q) { q.cols = 0; });
  refused([](ling_fp8& q) { q.tiles = 3; });
  refused([](ling_fp8& q) { q.ends = nullptr; });
  refused([](ling_fp8& q) { q.rows = 3; });
}

}  // namespace

void fuzz_train_fp8(uint64_t seed, int64_t rounds) {
  Random r{seed};
  check_refused();
  for (int64_t i = 0; i < rounds; ++i) {
    Values v = random_values(r);
    check_values(v);
  }
}
