// Causal attention for training against the formula in float64: packed sequences of any lengths,
// grouped heads, more keys than queries, gaps between tokens. And the loss of rows of scores.
#include <algorithm>

#include "internal.h"
#include "test.h"

using namespace ling;

namespace {

struct Case {
  int64_t H, G, K, gap;
  std::vector<int64_t> query_ends = {0}, key_ends = {0};
  int64_t stride(int64_t heads) const { return heads * K + gap; }
  int64_t queries() const { return query_ends.back(); }
  int64_t keys() const { return key_ends.back(); }
};

Case random_case(Random& r) {
  Case c;
  c.G = r.between(1, 2), c.H = c.G * r.between(1, 2), c.K = 32 * r.between(1, 4);
  c.gap = r.below(2) * r.between(1, 40);
  const int64_t longest[] = {1, 5, 64, 150};
  for (int64_t i = r.between(0, 3); i > 0; --i) {
    const int64_t queries = r.between(0, r.pick(longest)), before = r.below(2) * r.between(0, 70);
    c.query_ends.push_back(c.queries() + queries);
    c.key_ends.push_back(c.keys() + queries + before);
  }
  return c;
}

float wide(float x) { return x; }
float wide(uint16_t x) { return from_bf16(x); }
void put(float x, float* to) { *to = x; }
void put(float x, uint16_t* to) { *to = to_bf16(x); }

// Rows of heads with gaps of NaN, which nothing may read.
template <class T>
Array<T> random_rows(Random& r, const Case& c, int64_t tokens, int64_t heads) {
  const int64_t n = tokens ? (tokens - 1) * c.stride(heads) + heads * c.K : 0;
  Array<T> x(n, 1);
  for (int64_t i = 0; i < n; ++i) put(i % c.stride(heads) < heads * c.K ? r.normal() : NAN, &x[i]);
  return x;
}

struct Gradients {
  std::vector<double> out, dq, dk, dv;  // without gaps
};

// One query of one head: adds to the gradients of what it sees.
template <class T>
void formula(const Case& c, int64_t sequence, int64_t i, int64_t h, const T* q, const T* k,
             const T* v, const T* dout, Gradients& to) {
  const int64_t K = c.K, g = h / (c.H / c.G), query = c.query_ends[size_t(sequence)] + i;
  const int64_t first = c.key_ends[size_t(sequence)];
  const int64_t keys = c.key_ends[size_t(sequence) + 1] - first;
  const int64_t seen = keys - (c.query_ends[size_t(sequence) + 1] - query) + 1;
  const double scale = 1 / sqrt(double(K));
  const T *a = q + query * c.stride(c.H) + h * K, *b = dout + (query * c.H + h) * K;
  std::vector<double> p(static_cast<size_t>(seen)), dp(static_cast<size_t>(seen));
  double total = 0, delta = 0;
  for (int64_t j = 0; j < seen; ++j) {
    const T* key = k + (first + j) * c.stride(c.G) + g * K;
    const T* value = v + (first + j) * c.stride(c.G) + g * K;
    double score = 0;
    for (int64_t d = 0; d < K; ++d) {
      score += double(wide(a[d])) * wide(key[d]);
      dp[size_t(j)] += double(wide(b[d])) * wide(value[d]);
    }
    total += p[size_t(j)] = exp(score * scale);
  }
  for (int64_t j = 0; j < seen; ++j) delta += (p[size_t(j)] /= total) * dp[size_t(j)];
  for (int64_t j = 0; j < seen; ++j) {
    const double w = p[size_t(j)], ds = w * (dp[size_t(j)] - delta) * scale;
    const int64_t from = (first + j) * c.stride(c.G) + g * K, at = ((first + j) * c.G + g) * K;
    for (int64_t d = 0; d < K; ++d) {
      to.out[size_t((query * c.H + h) * K + d)] += w * wide(v[from + d]);
      to.dq[size_t((query * c.H + h) * K + d)] += ds * wide(k[from + d]);
      to.dk[size_t(at + d)] += ds * wide(a[d]);
      to.dv[size_t(at + d)] += w * wide(b[d]);
    }
  }
}

// Weights, gradients of scores and results of bfloat16 are each rounded to 8 bits.
double error_of(const Array<uint16_t>&) { return 0.02; }
double error_of(const Array<float>&) { return 2e-5; }

template <class T>
void check_close(const char* name, const Array<T>& got, const std::vector<double>& want,
                 uint64_t seed, int64_t round) {
  double largest = 0;
  for (double x : want) largest = std::max(largest, fabs(x));
  for (int64_t i = 0; i < got.size; ++i) {
    const double w = want[size_t(i)], is = double(wide(got.data()[i])), e = error_of(got);
    CHECK(fabs(is - w) <= e * largest + e / 2 * fabs(w) + e,
          "seed %d round %d: %s[%d] is %g, not %g", int(seed), int(round), name, int(i), is, w);
  }
}

void check_refused(ling_causal c) {
  CHECK(ling_causal_attention(nullptr) == LING_BAD_ARGUMENT, "null");
  c.head_dim = 48;
  CHECK(ling_causal_attention(&c) == LING_BAD_ARGUMENT, "head_dim");
  c.head_dim = 32, c.num_heads = 3, c.num_kv_heads = 2;
  CHECK(ling_causal_attention(&c) == LING_BAD_ARGUMENT, "heads");
  const int64_t queries[] = {0, 5}, keys[] = {0, 4};
  c.num_heads = 2, c.num_sequences = 1, c.query_ends = queries, c.key_ends = keys;
  CHECK(ling_causal_gradient(&c, c.q, c.out, c.out, c.out) == LING_BAD_ARGUMENT, "fewer keys");
}

// What ling_loss_gradient made of one row of scores is right within `error` of each value.
void check_loss(int status, const std::vector<double>& before, const std::vector<double>& after,
                int64_t target, float weight, float loss, double error) {
  CHECK(!status, "loss");
  double total = 0;
  for (const double x : before) total += exp(x);
  for (size_t i = 0; i < before.size(); ++i) {
    const double share = exp(before[i]) / total - (int64_t(i) == target);
    const double want = weight == 0 ? 0 : weight * share;
    CHECK(fabs(after[i] - want) <= error * fabs(want) + 1e-6, "%d of %d: %g, not %g", int(i),
          int(before.size()), after[i], want);
  }
  const double want = weight == 0 ? 0 : weight * (log(total) - before[size_t(target)]);
  CHECK(fabs(loss - want) <= 1e-5 * fabs(want) + 1e-5, "loss %g, not %g", double(loss), want);
}

// Scores of any range, also infinite where the row has no weight; lanes beyond the last vector.
void fuzz_loss(Random& r) {
  const int64_t n = r.between(1, 70), target = r.below(n);
  const float weight = r.below(4) ? r.uniform() : 0, size = r.pick({0.1f, 1.0f, 30.0f});
  Array<uint16_t> half(n, 1);
  Array<float> whole(n, 1);
  std::vector<double> before, half_after, whole_after;
  for (int64_t i = 0; i < n; ++i) {
    half[i] = to_bf16(weight == 0 && !r.below(9) ? NAN : size * r.normal());
    whole[i] = from_bf16(half[i]);
    before.push_back(double(whole[i]));
  }
  float loss = -1, exact = -1;
  const int status = ling_loss_gradient(half.data(), 1, 1, n, &target, &weight, &loss);
  const int other = ling_loss_gradient(whole.data(), 0, 1, n, &target, &weight, &exact);
  for (int64_t i = 0; i < n; ++i) {
    half_after.push_back(double(from_bf16(half[i])));
    whole_after.push_back(double(whole[i]));
  }
  check_loss(status, before, half_after, target, weight, loss, 0.005);
  check_loss(other, before, whole_after, target, weight, exact, 1e-5);
  CHECK(ling_loss_gradient(half.data(), 1, 1, target, &target, &weight, &loss) == LING_BAD_ARGUMENT,
        "a target beyond the row");
}

template <class T>
void fuzz_case(Random& r, const Case& c, uint64_t seed, int64_t round) {
  const int64_t Q = c.queries(), S = c.keys(), H = c.H, G = c.G, K = c.K;
  const Array<T> q = random_rows<T>(r, c, Q, H), k = random_rows<T>(r, c, S, G),
                 v = random_rows<T>(r, c, S, G);
  Array<T> out(Q * H * K, 1), dout(Q * H * K), dq(Q * H * K, 1), dk(S * G * K), dv(S * G * K);
  Array<float> lse(Q * H);
  for (T& x : dout) put(r.normal(), &x);
  const ling_causal args = {H,
                            G,
                            K,
                            int64_t(c.query_ends.size()) - 1,
                            c.query_ends.data(),
                            c.key_ends.data(),
                            float(1 / sqrt(double(K))),
                            sizeof(T) == 2,
                            q.data(),
                            k.data(),
                            v.data(),
                            c.stride(H),
                            c.stride(G),
                            c.stride(G),
                            out.data(),
                            lse.data()};
  CHECK(!ling_causal_attention(&args), "seed %d round %d", int(seed), int(round));
  CHECK(!ling_causal_gradient(&args, dout.data(), dq.data(), dk.data(), dv.data()), "gradient");
  const auto zeros = [](int64_t n) { return std::vector<double>(size_t(n)); };
  Gradients want = {zeros(Q * H * K), zeros(Q * H * K), zeros(S * G * K), zeros(S * G * K)};
  for (size_t s = 0; s + 1 < c.query_ends.size(); ++s)
    for (int64_t i = 0; i < c.query_ends[s + 1] - c.query_ends[s]; ++i)
      for (int64_t h = 0; h < H; ++h)
        formula(c, int64_t(s), i, h, q.data(), k.data(), v.data(), dout.data(), want);
  check_close("out", out, want.out, seed, round), check_close("dq", dq, want.dq, seed, round);
  check_close("dk", dk, want.dk, seed, round), check_close("dv", dv, want.dv, seed, round);
  check_refused(args);
}

}  // namespace

void fuzz_train_attention(uint64_t seed, int64_t rounds) {
  Random r = {seed};
  for (int64_t round = 0; round < rounds; ++round) {
    const Case c = random_case(r);
    fuzz_case<uint16_t>(r, c, seed, round);
    fuzz_case<float>(r, c, seed, round);
    for (int i = 0; i < 20; ++i) fuzz_loss(r);
  }
}
