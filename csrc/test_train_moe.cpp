// What a mixture of experts and its layers are made of in training, in float32, against formulas in
// float64: experts with any number of rows, ties and NaN among scores, rows that are no token's.
#include <algorithm>
#include <numeric>

#include "internal.h"
#include "test.h"

using namespace ling;

namespace {

Array<float> normal(Random& r, int64_t n, float size = 1) {
  Array<float> x(n);
  for (float& v : x) v = size * r.normal();
  return x;
}

void check_near(const char* name, const Array<float>& got, const std::vector<double>& want) {
  double largest = 0;
  for (const double x : want) largest = std::max(largest, fabs(x));
  CHECK(size_t(got.size) == want.size(), "%s", name);
  for (int64_t i = 0; i < got.size; ++i)
    CHECK(fabs(got.data()[i] - want[size_t(i)]) <= 1e-5 * largest + 1e-6, "%s[%d] is %g, not %g",
          name, int(i), double(got.data()[i]), want[size_t(i)]);
}

struct Experts {
  int64_t E, D, F;
  std::vector<int64_t> ends = {0};
  int64_t rows() const { return ends.back(); }
};

struct Wanted {
  std::vector<double> y, dx, dgate, dup, ddown;
};

// One row of one expert.
void formula(const Experts& c, int64_t e, int64_t r, const float* x, const float* gate,
             const float* up, const float* down, const float* dy, Wanted& to) {
  const int64_t D = c.D, F = c.F;
  for (int64_t f = 0; f < F; ++f) {
    const int64_t row = (e * F + f) * D;
    double g = 0, u = 0, dh = 0;
    for (int64_t d = 0; d < D; ++d) {
      g += double(gate[row + d]) * x[r * D + d], u += double(up[row + d]) * x[r * D + d];
      dh += double(down[(e * D + d) * F + f]) * dy[r * D + d];
    }
    const double s = 1 / (1 + exp(-g)), dg = dh * u * (s + g * s * (1 - s)), du = dh * g * s;
    for (int64_t d = 0; d < D; ++d) {
      to.y[size_t(r * D + d)] += down[(e * D + d) * F + f] * g * s * u;
      to.ddown[size_t((e * D + d) * F + f)] += g * s * u * dy[r * D + d];
      to.dx[size_t(r * D + d)] += dg * gate[row + d] + du * up[row + d];
      to.dgate[size_t(row + d)] += dg * x[r * D + d];
      to.dup[size_t(row + d)] += du * x[r * D + d];
    }
  }
}

void fuzz_experts(Random& r) {
  Experts c = {r.between(1, 4), 16 * r.between(1, 5), 16 * r.between(1, 4)};
  for (int64_t e = 0; e < c.E; ++e) c.ends.push_back(c.rows() + r.pick({0, 1, 3, 64, 131}));
  const int64_t R = c.rows(), n = c.E * c.D * c.F;
  const Array<float> x = normal(r, R * c.D), gate = normal(r, n, 0.3f), up = normal(r, n, 0.3f),
                     down = normal(r, n, 0.3f), dy = normal(r, R * c.D);
  Array<float> gu(R * 2 * c.F), y(R * c.D), dx(R * c.D), dgate(n), dup(n), ddown(n), alone(R * c.D);
  for (Array<float>* w : {&dgate, &dup, &ddown}) std::fill(w->begin(), w->end(), NAN);
  const ling_experts args = {c.E,         c.D,       c.F,         c.ends.data(), x.data(),
                             gate.data(), up.data(), down.data(), gu.data(),     y.data()};
  CHECK(!ling_experts_forward(&args), "forward");
  CHECK(!ling_experts_gradient(&args, dy.data(), dx.data(), dgate.data(), dup.data(), ddown.data()),
        "gradient");
  CHECK(!ling_experts_gradient(&args, dy.data(), alone.data(), nullptr, nullptr, nullptr),
        "frozen");
  CHECK(std::equal(dx.begin(), dx.end(), alone.begin()), "weights change the gradient of rows");
  const auto zeros = [](int64_t size) { return std::vector<double>(size_t(size)); };
  Wanted want = {zeros(R * c.D), zeros(R * c.D), zeros(n), zeros(n), zeros(n)};
  for (int64_t e = 0; e < c.E; ++e)
    for (int64_t i = c.ends[size_t(e)]; i < c.ends[size_t(e) + 1]; ++i)
      formula(c, e, i, x.data(), gate.data(), up.data(), down.data(), dy.data(), want);
  check_near("y", y, want.y), check_near("dx", dx, want.dx), check_near("dgate", dgate, want.dgate);
  check_near("dup", dup, want.dup), check_near("ddown", ddown, want.ddown);
  ling_experts odd = args;
  odd.width = 24, refused(ling_experts_forward(&odd), "width");
  odd = args, odd.x = R ? nullptr : x.data(), odd.hidden = R ? c.D : 0;
  refused(ling_experts_forward(&odd), "null");
  refused(ling_experts_gradient(&args, dy.data(), dx.data(), dgate.data(), nullptr, nullptr),
          "some gradients");
}

void fuzz_choice(Random& r) {
  const int64_t n = r.between(1, 40), k = r.between(1, n), rows = r.between(0, 5);
  Array<float> x(rows * n);
  for (float& v : x) v = r.below(9) ? float(r.between(-3, 3)) : r.pick({NAN, INFINITY, -INFINITY});
  Array<int64_t> ids(rows * k), want(n);
  CHECK(!ling_top_k(x.data(), rows, n, k, ids.data()), "top-k");
  for (int64_t row = 0; row < rows; ++row) {
    const float* of = x.data() + row * n;
    std::iota(want.begin(), want.end(), 0);
    std::stable_sort(want.begin(), want.end(), [&](int64_t a, int64_t b) {
      return isnan(of[a]) ? !isnan(of[b]) : of[a] > of[b];
    });
    CHECK(std::equal(want.begin(), want.begin() + k, ids.begin() + row * k), "row %d", int(row));
  }
  refused(ling_top_k(x.data(), rows, n, n + 1, ids.data()), "k");
}

void fuzz_rows(Random& r) {
  const int64_t T = r.between(1, 300), A = r.between(1, 4), E = r.between(1, 6), N = T * A;
  const int64_t D = r.between(1, 70);
  Array<int64_t> ids(N), starts(E + 1), slots(N);
  for (int64_t& id : ids) id = r.below(E), ++starts[id + 1];
  for (int64_t e = 0; e < E; ++e) starts[e + 1] += starts[e] + r.below(3);  // with rows of nobody
  const int64_t R = starts[E];
  CHECK(!ling_sorted_rows(ids.data(), N, starts.data(), E, slots.data()), "sorted");
  std::vector<int64_t> next(starts.begin(), starts.end());
  for (int64_t i = 0; i < N; ++i) CHECK(slots[i] == next[size_t(ids[i])]++, "row %d", int(i));
  const Array<float> y = normal(r, R * D), w = normal(r, N), dout = normal(r, T * D);
  Array<float> out(T * D), dy(R * D), dw(N);
  std::fill(dy.begin(), dy.end(), NAN);
  const ling_combine args = {T, A, D, R, slots.data(), y.data(), w.data(), out.data()};
  CHECK(!ling_combine_rows(&args), "combine");
  CHECK(!ling_combine_gradient(&args, dout.data(), dy.data(), dw.data()), "gradient");
  std::vector<double> sums(size_t(T * D)), rows(size_t(R * D)), weights(static_cast<size_t>(N));
  for (int64_t i = 0; i < N; ++i)
    for (int64_t d = 0; d < D; ++d) {
      const double g = dout.data()[i / A * D + d], v = y.data()[slots[i] * D + d];
      sums[size_t(i / A * D + d)] += w.data()[i] * v;
      rows[size_t(slots[i] * D + d)] = w.data()[i] * g;
      weights[size_t(i)] += g * v;
    }
  check_near("sums", out, sums), check_near("rows", dy, rows), check_near("weights", dw, weights);
  slots[r.below(N)] = R;
  refused(ling_combine_rows(&args), "a slot");
  ids[r.below(N)] = -1;
  refused(ling_sorted_rows(ids.data(), N, starts.data(), E, slots.data()), "an id");
}

void fuzz_norm(Random& r) {
  const int64_t n = 16 * r.between(1, 6), rows = r.pick({0, 1, 7, 1100});
  const float eps = 1e-6f;
  const Array<float> x = normal(r, rows * n, 3), w = normal(r, n), dy = normal(r, rows * n);
  Array<float> dx(rows * n), dw(n);
  CHECK(!ling_rms_norm_gradient(x.data(), w.data(), dy.data(), rows, n, eps, dx.data(), dw.data()),
        "norm");
  std::vector<double> rows_want(size_t(rows * n)), want(static_cast<size_t>(n));
  for (int64_t i = 0; i < rows; ++i) {
    const float *a = x.data() + i * n, *g = dy.data() + i * n;
    double squares = 0, products = 0;
    for (int64_t d = 0; d < n; ++d)
      squares += double(a[d]) * a[d], products += double(g[d]) * w.data()[d] * a[d];
    const double s = 1 / sqrt(squares / double(n) + double(eps));
    for (int64_t d = 0; d < n; ++d) {
      rows_want[size_t(i * n + d)] =
          s * g[d] * w.data()[d] - s * s * s * a[d] * products / double(n);
      want[size_t(d)] += g[d] * a[d] * s;
    }
  }
  check_near("dx", dx, rows_want), check_near("dw", dw, want);
  refused(
      ling_rms_norm_gradient(x.data(), w.data(), dy.data(), rows, n - 1, eps, dx.data(), dw.data()),
      "n");
}

// Heads between others that nothing may read; there and back again.
void fuzz_rotation(Random& r) {
  const int64_t T = r.pick({1, 5, 600}), H = r.between(1, 3), half = r.between(0, 9);
  const int64_t K = 2 * half + r.between(1, 5), gap = r.between(0, 7), width = 2 * half + 1;
  Array<float> x((T - 1) * (H * K + gap) + H * K), turned(T * H * K), back(T * H * K);
  for (int64_t i = 0; i < x.size; ++i) x[i] = i % (H * K + gap) < H * K ? r.normal() : NAN;
  Array<float> cos(T * width), sin(T * width);
  for (int64_t i = 0; i < T * width; ++i) {
    const double angle = 7 * r.uniform();
    cos[i] = float(::cos(angle)), sin[i] = float(::sin(angle));
  }
  const auto rotate = [&](const float* from, int64_t stride, float sign, float* to) {
    return ling_rotate_heads(from, stride, cos.data(), sin.data(), width, T, H, K, half, sign, to);
  };
  CHECK(!rotate(x.data(), H * K + gap, 1, turned.data()), "rotate");
  CHECK(!rotate(turned.data(), H * K, -1, back.data()), "back");
  for (int64_t i = 0; i < T * H * K; ++i) {
    const int64_t t = i / (H * K), d = i % K;
    const float* from = x.data() + t * (H * K + gap) + i % (H * K) - d;
    const int64_t at = t * width + (d < half ? d : d - half);
    double want = double(from[d]);
    if (d < half) want = double(from[d]) * cos[at] - double(from[d + half]) * sin[at];
    if (d >= half && d < 2 * half)
      want = double(from[d]) * cos[at] + double(from[d - half]) * sin[at];
    CHECK(fabs(turned[i] - want) < 1e-5, "turned[%d] is %g, not %g", int(i), double(turned[i]),
          want);
    CHECK(fabs(back[i] - from[d]) < 1e-5, "back[%d] is %g", int(i), double(back[i]));
  }
  refused(rotate(x.data(), H * K - 1, 1, turned.data()), "a stride");
}

}  // namespace

void fuzz_train_moe(uint64_t seed, int64_t rounds) {
  Random r = {seed};
  for (int64_t round = 0; round < rounds; ++round) {
    fuzz_experts(r), fuzz_choice(r), fuzz_rows(r), fuzz_norm(r), fuzz_rotation(r);
  }
}
