// Runs without Python, built with sanitizers: packing and products of random matrices against their
// definition, and calls that must be refused. `test_kernels SEED ROUNDS`.
#include "test.h"

namespace {

const int32_t kFormats[] = {LING_I3, LING_I4, LING_I8, LING_BF16};
const int32_t kGroups[] = {16, 32, 48, 64, 128, 240, 256};

struct Case {
  int32_t format, group;
  int64_t rows, cols, T;
};

Case random_case(Random& r) {
  Case c;
  c.format = r.pick(kFormats);
  do c.group = c.format == LING_BF16 ? 2 : r.pick(kGroups);
  while (c.format == LING_I3 && c.group % 32);
  c.rows = r.between(1, r.below(4) ? 40 : 150);
  c.cols = r.between(1, r.below(4) ? 150 : 700);
  // Few rows, and more than are multiplied by codes (36) or by one set of unpacked weights (128).
  c.T = r.below(8) ? r.between(1, 40) : r.between(120, 300);
  return c;
}

float odd_value(Random& r) {
  const float values[] = {0,     -0.0f,  1e-45f, 1e-40f,   1e-38f,   3e-37f,
                          1e30f, -1e30f, NAN,    INFINITY, -INFINITY};
  return r.pick(values);
}

void fill(Random& r, Array<float>& x, bool odd) {
  for (float& v : x) v = r.normal();
  for (int64_t i = 0, n = odd ? r.below(4) : 0; i < n; ++i) x[r.below(x.size)] = odd_value(r);
}

int64_t groups_of(const Case& c) { return (c.cols + c.group - 1) / c.group; }

// Largest magnitude of a group: NaN if a value is not finite, 0 below 1e-36.
float group_top(const float* x, int64_t n) {
  float top = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!isfinite(x[i])) return NAN;
    top = fmaxf(top, fabsf(x[i]));
  }
  return top < 1e-36f ? 0 : top;
}

void check_packing(const Case& c, const Array<float>& w, const Array<float>& got) {
  // Levels may cut off the largest value of a group for the sake of the others: with 3 bits, none
  // of which stand for zero, all of it where more than 128 share a scale and nearly all are zeros.
  const double bound[] = {0, 0.25, 0.012, 0, 0, c.group > 128 ? 1.01 : 0.4};
  for (int64_t n = 0; n < c.rows; ++n)
    for (int64_t k = 0; k < c.cols; ++k) {
      const float want = w.data()[n * c.cols + k], have = got.data()[n * c.cols + k];
      if (c.format == LING_BF16) {
        const bool same =
            isnan(want) ? isnan(have) : fabsf(have - want) <= fabsf(want) / 256 || have == want;
        CHECK(same || fabsf(want) < 1e-37f, "%g became %g", want, have);
        continue;
      }
      const int64_t start = k / c.group * c.group, left = c.cols - start;
      const float top = group_top(w.data() + n * c.cols + start, left < c.group ? left : c.group);
      CHECK(isnan(top) ? isnan(have) : fabs(double(have) - want) <= bound[c.format] * top + 1e-36,
            "format %d group %d [%d, %d]: %g became %g, largest %g", c.format, c.group, int(c.rows),
            int(c.cols), want, have, top);
    }
}

// Codes of a packed matrix: what it stands for when every scale is one.
Array<float> codes_of(const Matrix& p, const Case& c) {
  Array<uint16_t> ones(p.scales.size);
  for (uint16_t& s : ones) s = 0x3f80;
  ling_matrix m = p.m;
  m.scales = ones.data();
  Array<float> codes(c.rows * c.cols);
  CHECK(!ling_unpack(&m, codes.data()), "unpack");
  return codes;
}

// In bfloat16 a matrix is what it is in float32, rounded.
void check_unpacked_bf16(const ling_matrix& m, const Array<float>& want) {
  Array<uint16_t> got(m.rows * m.cols, 1);
  CHECK(!ling_unpack_bf16(&m, got.data()), "unpack");
  for (int64_t i = 0; i < got.size; ++i)
    CHECK(got[i] == to_bf16(want.data()[i]) || (isnan(want.data()[i]) && isnan(from_bf16(got[i]))),
          "format %d group %d [%d, %d] at %d: %g, not %g", m.format, m.group, int(m.rows),
          int(m.cols), int(i), from_bf16(got[i]), want.data()[i]);
}

// The definition (ling_kernels.h): exact integers in a group, then one fused multiply-add a group.
float integer_product(const Case& c, const Matrix& p, const float* codes, const float* x,
                      int64_t n) {
  float sum = 0;
  for (int64_t g = 0; g < groups_of(c); ++g) {
    const int64_t start = g * c.group, left = c.cols - start,
                  have = left < c.group ? left : c.group;
    const float top = group_top(x + start, have), scale = top / 127;
    int64_t dot = 0;
    for (int64_t k = 0; k < have; ++k)
      if (top > 0) dot += int64_t(rintf(x[start + k] * (127 / top))) * int64_t(codes[start + k]);
    const float ws = from_bf16(p.scales.data()[((n / 16) * groups_of(c) + g) * 16 + n % 16]);
    sum = fmaf(float(dot), ws * scale, sum);
  }
  return sum;
}

void check_product(const Case& c, const Matrix& p, const Array<float>& x, const Array<float>& y) {
  Array<float> weights(c.rows * c.cols);
  CHECK(!ling_unpack(&p.m, weights.data()), "unpack");
  const Array<float> codes = c.format == LING_BF16 ? Array<float>() : codes_of(p, c);
  for (int64_t t = 0; t < c.T; ++t)
    for (int64_t n = 0; n < c.rows; ++n) {
      const float got = y.data()[t * c.rows + n], *row = x.data() + t * c.cols;
      if (c.format != LING_BF16) {
        const float want = integer_product(c, p, codes.data() + n * c.cols, row, n);
        CHECK(got == want || (isnan(got) && isnan(want)),
              "format %d group %d [%d, %d] row %d of %d: %g, not %g", c.format, c.group,
              int(c.rows), int(c.cols), int(t), int(c.T), got, want);
        continue;
      }
      double want = 0, size = 0;
      for (int64_t k = 0; k < c.cols; ++k) {
        const double term = double(weights[n * c.cols + k]) * row[k];
        want += term, size += fabs(term);
      }
      CHECK(fabs(got - want) <= 0.01 * size + 1e-30 || !(size < 1e36), "bfloat16: %g, not %g", got,
            want);
    }
}

void fuzz_matrix(Random& r) {
  const Case c = random_case(r);
  const bool odd = r.below(3) == 0;
  const int64_t stride = c.cols + r.below(5);
  Array<float> w(c.rows * c.cols, 1), strided((c.rows - 1) * stride + c.cols, 1),
      back(c.rows * c.cols, 1);
  fill(r, w, odd);
  for (int64_t n = 0; n < c.rows; ++n)
    memcpy(strided.data() + n * stride, w.data() + n * c.cols, size_t(c.cols) * 4);
  Array<float> importance(c.cols, 1);
  for (float& v : importance) v = r.uniform();
  const bool weighed = (c.format == LING_I4 || c.format == LING_I3) && r.below(2);

  int64_t data_bytes, scale_bytes;
  CHECK(!ling_packed_size(c.format, c.group, c.rows, c.cols, &data_bytes, &scale_bytes), "size");
  Matrix p;
  p.data = Array<uint8_t>(data_bytes, c.format == LING_BF16 ? 2 : 1);
  p.scales = Array<uint16_t>(scale_bytes / 2, 1);
  p.m = {c.format, c.group, c.rows, c.cols, p.data.data(), p.scales.data()};
  CHECK(!ling_pack(c.format, c.group, c.rows, c.cols, strided.data(), 0, stride,
                   weighed ? importance.data() : nullptr, p.data.data(), p.scales.data()),
        "pack");
  CHECK(!ling_unpack(&p.m, back.data()), "unpack");
  if (!weighed) check_packing(c, w, back);
  check_unpacked_bf16(p.m, back);

  Array<float> x(c.T * c.cols, 1), y(c.T * c.rows, 1);
  fill(r, x, odd);
  ling_set_num_threads(int(r.between(1, 3)));
  CHECK(!ling_matmul(&p.m, x.data(), y.data(), c.T), "matmul");
  check_product(c, p, x, y);
  // A row alone has the same bits.
  const int64_t t = r.below(c.T);
  Array<float> one(c.rows, 1);
  CHECK(!ling_matmul(&p.m, x.data() + t * c.cols, one.data(), 1), "matmul");
  CHECK(!memcmp(one.data(), y.data() + t * c.rows, size_t(c.rows) * 4), "row %d alone differs",
        int(t));
}

// bfloat16 weights pack as the same values in float32 do.
void fuzz_bf16_weights(Random& r) {
  const Case c = random_case(r);
  Array<float> w(c.rows * c.cols);
  Array<uint16_t> half(w.size, 1);
  for (int64_t i = 0; i < w.size; ++i) w[i] = from_bf16(half[i] = to_bf16(r.normal()));
  int64_t data_bytes, scale_bytes;
  CHECK(!ling_packed_size(c.format, c.group, c.rows, c.cols, &data_bytes, &scale_bytes), "size");
  Array<uint8_t> a(data_bytes), b(data_bytes);
  Array<uint16_t> sa(scale_bytes / 2), sb(scale_bytes / 2);
  CHECK(!ling_pack(c.format, c.group, c.rows, c.cols, w.data(), 0, c.cols, nullptr, a.data(),
                   sa.data()),
        "pack");
  CHECK(!ling_pack(c.format, c.group, c.rows, c.cols, half.data(), 1, c.cols, nullptr, b.data(),
                   sb.data()),
        "pack");
  CHECK(!memcmp(a.data(), b.data(), size_t(data_bytes)) &&
            !memcmp(sa.data(), sb.data(), size_t(scale_bytes)),
        "bf16");
}

// Rows of bfloat16 times a stack: each row is what it is in float32, rounded; of pairs columns are
// apart.
void fuzz_rows_product(Random& r) {
  Case c = random_case(r);
  if (!r.below(4)) c.format = LING_FP8, c.group = 128;
  const bool pairs = r.below(2);
  if (pairs) c.rows = 32 * r.between(1, r.below(4) ? 3 : 80);
  const int64_t count = r.between(1, 4);
  const Matrix p = random_matrix(r, c.format, c.group, c.rows, c.cols, count);
  Array<int64_t> ends(count + 1);
  for (int64_t e = 0; e < count; ++e) ends[e + 1] = ends[e] + r.between(0, r.below(3) ? 9 : 150);
  const int64_t R = ends[count];
  Array<uint16_t> x(R * c.cols, 1), y(R * c.rows, 1);
  Array<float> wide(R * c.cols), want(R * c.rows);
  fill(r, wide, R && r.below(3) == 0);
  for (int64_t i = 0; i < x.size; ++i) wide[i] = from_bf16(x[i] = to_bf16(wide[i]));
  ling_set_num_threads(int(r.between(1, 3)));
  CHECK(!ling_matmul_bf16(&p.m, count, ends.data(), pairs, x.data(), y.data()), "product");
  for (int64_t e = 0; e < count; ++e) {
    ling_matrix one = p.m;
    one.data = p.data.data() + e * (p.data.size / count);
    one.scales = p.scales.data() + e * (p.scales.size / count);
    CHECK(!ling_matmul(&one, wide.data() + ends[e] * c.cols, want.data() + ends[e] * c.rows,
                       ends[e + 1] - ends[e]),
          "product");
  }
  for (int64_t i = 0; i < R; ++i)
    for (int64_t n = 0; n < c.rows; ++n) {
      const int64_t to = pairs ? n / 16 % 2 * (c.rows / 2) + n / 32 * 16 + n % 16 : n;
      const uint16_t have = y[i * c.rows + to];
      const float wanted = want[i * c.rows + n];
      CHECK(have == to_bf16(wanted) || (isnan(wanted) && isnan(from_bf16(have))),
            "format %d of %d, row %d of %d, column %d", c.format, int(count), int(i), int(R),
            int(n));
    }
}

float value_of_fp8(uint8_t b) {
  const int e = b >> 3 & 15, m = b & 7;
  const float size = e == 15 && m == 7 ? NAN
                     : e               ? ldexpf(1 + m / 8.0f, e - 7)
                                       : ldexpf(m / 8.0f, -6);
  return b & 128 ? -size : size;
}

// E4M3 with scales of blocks, alone or interleaved with others: values unchanged, products near
// those of float64 over the rows as bfloat16 has them.
void fuzz_fp8(Random& r) {
  const int64_t step = r.between(1, 3), first = r.below(step);
  const int64_t rows = step > 1 ? 16 * r.between(1, 20) : r.between(1, 300);
  const int64_t cols = r.between(1, r.below(4) ? 150 : 700), T = r.between(1, 20);
  const int64_t groups = (cols + 127) / 128, stride = cols + r.below(5);
  Array<uint8_t> values((rows - 1) * stride + cols, 1);
  Array<float> blocks((rows + 127) / 128 * groups, 1);
  for (uint8_t& v : values) v = uint8_t(r.next());
  if (r.below(3))
    for (uint8_t& v : values) v = (v & 127) == 127 ? 0 : v;
  for (float& s : blocks) s = 0.01f + r.uniform();
  Matrix p = random_matrix(r, LING_FP8, 128, step * rows, cols);
  CHECK(!ling_pack_fp8(rows, cols, values.data(), stride, blocks.data(), first, step, p.data.data(),
                       p.scales.data()),
        "pack");
  Array<float> back(p.m.rows * cols, 1), x(T * cols, 1), y(T * p.m.rows, 1), one(p.m.rows, 1);
  CHECK(!ling_unpack(&p.m, back.data()), "unpack");
  check_unpacked_bf16(p.m, back);
  for (float& v : x) v = from_bf16(to_bf16(r.normal()));
  ling_set_num_threads(int(r.between(1, 3)));
  CHECK(!ling_matmul(&p.m, x.data(), y.data(), T), "matmul");
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t at = (n / 16 * step + first) * 16 + n % 16;
    for (int64_t k = 0; k < cols; ++k) {
      const float want = value_of_fp8(values[n * stride + k]) * blocks[n / 128 * groups + k / 128];
      const float have = back[at * cols + k];
      CHECK(have == want || (isnan(have) && isnan(want)), "%g became %g", want, have);
    }
    for (int64_t t = 0; t < T; ++t) {
      double want = 0, size = 0;
      for (int64_t k = 0; k < cols; ++k) {
        const double term = double(back[at * cols + k]) * x[t * cols + k];
        want += term, size += fabs(term);
      }
      const float got = y[t * p.m.rows + at];
      CHECK(isnan(want) ? isnan(got) : fabs(got - want) <= 1e-5 * size, "FP8: %g, not %g", got,
            want);
    }
  }
  const int64_t t = r.below(T);
  CHECK(!ling_matmul(&p.m, x.data() + t * cols, one.data(), 1), "matmul");
  CHECK(!memcmp(one.data(), y.data() + t * p.m.rows, size_t(p.m.rows) * 4), "row %d alone differs",
        int(t));
}

// Any bytes are valid codes, so a damaged file may give wrong numbers and nothing worse.
void fuzz_bytes(Random& r) {
  Case c = random_case(r);
  if (!r.below(4)) c.format = LING_FP8, c.group = 128;
  Matrix p = random_matrix(r, c.format, c.group, c.rows, c.cols);
  for (uint8_t& b : p.data) b = uint8_t(r.next());
  for (uint16_t& s : p.scales) s = uint16_t(r.next());
  Array<float> x(c.T * c.cols), y(c.T * c.rows), back(c.rows * c.cols, 1);
  fill(r, x, false);
  CHECK(!ling_unpack(&p.m, back.data()), "unpack");
  check_unpacked_bf16(p.m, back);
  CHECK(!ling_matmul(&p.m, x.data(), y.data(), c.T), "matmul");
  if (c.format != LING_BF16 && c.format != LING_FP8) check_product(c, p, x, y);
}

void bad_calls(Random& r) {
  const int64_t huge[] = {0, -1, INT64_MIN, INT64_MAX, (int64_t(1) << 31) + 1, int64_t(1) << 40};
  Matrix p = random_matrix(r, LING_I8, 32, 20, 50);
  Array<float> x(50), y(20);
  uint16_t wide[2];
  int64_t n, m;
  for (int32_t format : {0, -1, 6, INT32_MIN, INT32_MAX})
    refused(ling_packed_size(format, 32, 16, 16, &n, &m), "format");
  for (int32_t group : {0, -16, 8, 15, 24, 257, 272, INT32_MIN, INT32_MAX})
    refused(ling_packed_size(LING_I4, group, 16, 16, &n, &m), "group");
  for (int32_t group : {16, 48, 240, 288})
    refused(ling_packed_size(LING_I3, group, 16, 16, &n, &m), "group");
  for (int32_t group : {0, 64, 256, -128})
    refused(ling_packed_size(LING_FP8, group, 16, 16, &n, &m), "group");
  for (int32_t group : {0, 1, 16, -2})
    refused(ling_packed_size(LING_BF16, group, 16, 16, &n, &m), "group");
  for (int64_t bad : huge) {
    refused(ling_packed_size(LING_I8, 32, bad, 16, &n, &m), "rows");
    refused(ling_packed_size(LING_I8, 32, 16, bad, &n, &m), "cols");
    ling_matrix w = p.m;
    w.rows = bad;
    refused(ling_matmul(&w, x.data(), y.data(), 1), "rows");
    refused(ling_unpack(&w, y.data()), "rows");
    refused(ling_unpack_bf16(&w, wide), "rows");
    if (bad && bad != -1 + 0) refused(ling_matmul(&p.m, x.data(), y.data(), bad), "T");
  }
  refused(ling_matmul(&p.m, x.data(), y.data(), -1), "T");
  CHECK(!ling_matmul(&p.m, nullptr, nullptr, 0), "no rows");
  refused(ling_packed_size(LING_I8, 32, 16, 16, nullptr, &m), "null");
  refused(ling_packed_size(LING_I8, 32, 16, 16, &n, nullptr), "null");
  refused(ling_matmul(nullptr, x.data(), y.data(), 1), "null");
  refused(ling_matmul(&p.m, nullptr, y.data(), 1), "null");
  refused(ling_matmul(&p.m, x.data(), nullptr, 1), "null");
  refused(ling_unpack(nullptr, y.data()), "null");
  refused(ling_unpack_bf16(nullptr, wide), "null");
  const int64_t none[] = {0, 0}, row[] = {0, 1}, late[] = {1, 1}, back[] = {0, -1};
  CHECK(!ling_matmul_bf16(&p.m, 1, none, 0, nullptr, nullptr), "no rows");
  refused(ling_matmul_bf16(nullptr, 1, row, 0, wide, wide), "null");
  refused(ling_matmul_bf16(&p.m, 1, nullptr, 0, wide, wide), "null");
  refused(ling_matmul_bf16(&p.m, 1, row, 0, nullptr, wide), "null");
  refused(ling_matmul_bf16(&p.m, 1, row, 0, wide, nullptr), "null");
  refused(ling_matmul_bf16(&p.m, 1, row, 1, wide, wide), "half a tile");
  for (const int64_t* ends : {late, back})
    refused(ling_matmul_bf16(&p.m, 1, ends, 0, wide, wide), "rows");
  for (int64_t bad : huge) refused(ling_matmul_bf16(&p.m, bad, row, 0, wide, wide), "count");
  refused(ling_unpack_bf16(&p.m, nullptr), "null");
  refused(ling_unpack(&p.m, nullptr), "null");
  ling_matrix w = p.m;
  w.data = nullptr;
  refused(ling_matmul(&w, x.data(), y.data(), 1), "null");
  w = p.m;
  w.scales = nullptr;
  refused(ling_unpack(&w, y.data()), "null");
  refused(ling_pack(LING_I8, 32, 20, 50, nullptr, 0, 50, nullptr, p.data.data(), p.scales.data()),
          "null");
  refused(ling_pack(LING_I8, 32, 1, 50, x.data(), 0, 50, nullptr, nullptr, p.scales.data()),
          "null");
  refused(ling_pack(LING_I8, 32, 1, 50, x.data(), 0, 50, nullptr, p.data.data(), nullptr), "null");
  uint8_t q[2] = {};
  refused(ling_widen_fp8(nullptr, 1, 2, x.data(), 128, wide), "null");
  refused(ling_widen_fp8(q, 1, 2, nullptr, 128, wide), "null");
  refused(ling_widen_fp8(q, 1, 2, x.data(), 128, nullptr), "null");
  refused(ling_widen_fp8(q, 0, 2, x.data(), 128, wide), "rows");
  refused(ling_widen_fp8(q, 1, 2, x.data(), 0, wide), "block");
  refused(ling_pack_pair(LING_I8, 32, 20, 50, x.data(), x.data(), 0, 50, nullptr, p.data.data(),
                         p.scales.data()),
          "half a tile");
  refused(ling_pack_pair(LING_I8, 32, 32, 50, x.data(), nullptr, 0, 50, nullptr, p.data.data(),
                         p.scales.data()),
          "null");
  refused(ling_pack(LING_I8, 32, 1, 50, x.data(), 0, 49, nullptr, p.data.data(), p.scales.data()),
          "stride");
  refused(ling_pack(LING_FP8, 128, 1, 50, x.data(), 0, 50, nullptr, p.data.data(), p.scales.data()),
          "FP8");
  Matrix fp8 = random_matrix(r, LING_FP8, 128, 16, 50);
  const auto fp8_call = [&](int64_t rows, const uint8_t* values, int64_t stride,
                            const float* blocks, int64_t first, int64_t step, void* data,
                            void* scales) {
    refused(ling_pack_fp8(rows, 50, values, stride, blocks, first, step, data, scales), "FP8");
  };
  uint8_t* data = fp8.data.data();
  void* scales = fp8.scales.data();
  fp8_call(16, nullptr, 50, x.data(), 0, 1, data, scales);
  fp8_call(16, data, 50, nullptr, 0, 1, data, scales);
  fp8_call(16, data, 50, x.data(), 0, 1, nullptr, scales);
  fp8_call(16, data, 50, x.data(), 0, 1, data, nullptr);
  fp8_call(16, data, 49, x.data(), 0, 1, data, scales);
  for (int64_t bad : huge) {
    fp8_call(bad, data, 50, x.data(), 0, 1, data, scales);
    fp8_call(16, data, 50, x.data(), 0, bad < 1 ? bad : int64_t(1) << 40, data, scales);
    fp8_call(16, data, 50, x.data(), bad < 0 ? bad : int64_t(1) << 40, 1, data, scales);
  }
  refused(ling_isa(nullptr), "null");
  for (int threads : {0, -1, 257, INT32_MAX}) refused(ling_set_num_threads(threads), "threads");
}

}  // namespace

int main(int argc, char** argv) {
  const char* isa = nullptr;
  CHECK(!ling_isa(&isa), "isa");
  const uint64_t seed = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1;
  const int64_t rounds = argc > 2 ? atoll(argv[2]) : 100;
  Random r = {seed};
  bad_calls(r);
  for (int64_t i = 0; i < rounds; ++i) {
    fuzz_matrix(r);
    fuzz_bf16_weights(r);
    fuzz_fp8(r);
    fuzz_bytes(r);
  }
  for (int64_t i = 0; i < rounds; ++i) fuzz_rows_product(r);
  fuzz_low_rank(seed, rounds);
  fuzz_sampling(seed, rounds);
  fuzz_attention(seed, rounds);
  fuzz_train_attention(seed, rounds / 3);
  fuzz_train_moe(seed, rounds);
  fuzz_train_fp8(seed, rounds);
  fuzz_adam8(seed, rounds);
  fuzz_models(seed, rounds / 10);
  printf("%s: ok\n", isa);
  return 0;
}
