// The attention kernel alone, against the formula in float64: any sizes, all formats of pages,
// values that are not finite, and a row in a block against the same row on its own.
#include "internal.h"
#include "test.h"

using namespace ling;

namespace {

// Keys or values of all positions; NaN in `scales` (integers) or in `x` (bfloat16) where not
// finite.
struct Rows {
  int32_t format;
  int64_t head_dim;
  Array<float> x;       // what a page stands for, [positions, head_dim]
  Array<int8_t> codes;  // int8, or numbers of int4 levels
  Array<float> scales;
};

Rows random_rows(Random& r, int32_t format, int64_t positions, int64_t head_dim, bool odd) {
  Rows rows = {format, head_dim, Array<float>(positions * head_dim),
               Array<int8_t>(positions * head_dim), Array<float>(positions)};
  for (int64_t i = 0; i < positions; ++i) {
    const bool bad = odd && !r.below(20);
    const int64_t where = r.below(head_dim);
    rows.scales[i] = bad ? NAN : (0.5f + r.uniform()) / 64;
    if (format == LING_I4 && r.below(2)) rows.scales[i] *= -1;
    for (int64_t d = 0; d < head_dim; ++d) {
      const int64_t at = i * head_dim + d;
      rows.codes[at] = int8_t(format == LING_I4 ? r.below(16) : r.between(-127, 127));
      if (format == LING_I8)
        rows.x[at] = rows.scales[i] * float(rows.codes[at]);
      else if (format == LING_I4)
        rows.x[at] = rows.scales[i] * float(kInt4Levels[rows.codes[at]]);
      else
        rows.x[at] =
            bad && d == where ? (r.below(2) ? NAN : INFINITY) : from_bf16(to_bf16(r.normal()));
    }
  }
  return rows;
}

// ling_kernels.h, element by element.
void write(const Rows& rows, int64_t position, bool is_key, uint8_t* page) {
  const int64_t K = rows.head_dim, at = position % kPage;
  for (int64_t d = 0; d < K; ++d) {
    const int64_t row = is_key ? at : d, column = is_key ? d : at, columns = is_key ? K : kPage;
    if (rows.format == LING_I4) {
      // A position's bytes are its own, so a half of them may be replaced.
      const int64_t byte =
          is_key ? row / 16 * 8 * K + column / 8 * 64 + row % 16 * 4 + column % 4
                 : row / 32 * 32 * kPage / 2 + column / 4 * 64 + row % 16 * 4 + column % 4;
      const int shift = (is_key ? column / 4 : row / 16) % 2 * 4;
      const int code = rows.codes.data()[position * K + d];
      page[byte] = uint8_t((page[byte] & (0xf0 >> shift)) | code << shift);
    } else if (rows.format == LING_I8) {
      page[row / 16 * 16 * columns + column / 4 * 64 + row % 16 * 4 + column % 4] =
          uint8_t(rows.codes.data()[position * K + d] + 128);
    } else {
      const int64_t lanes = is_key ? kPage : K, pair = column / 2;
      const uint16_t bits = to_bf16(rows.x.data()[position * K + d]);
      memcpy(page + 2 * (2 * lanes * pair + 2 * row + column % 2), &bits, 2);
    }
  }
  if (rows.format != LING_BF16)
    memcpy(page + kv_bytes(rows.format, K) - 4 * kPage + 4 * at, rows.scales.data() + position, 4);
}

struct Cache {
  std::vector<int32_t> pages;
  Array<uint8_t> k, v;
  int64_t stride;
};

// Positions below `end`; NaN and noise everywhere else.
Cache random_cache(Random& r, const Rows& k, const Rows& v, int64_t end) {
  const int64_t bytes = kv_bytes(k.format, k.head_dim), heads = r.between(1, 2);
  const int64_t num_pages = ceil_div(end, kPage), extra = r.between(0, 2);
  Cache c = {
      {}, Array<uint8_t>((num_pages + extra) * heads * bytes), Array<uint8_t>(0), heads * bytes};
  c.v = Array<uint8_t>(c.k.size);
  for (int64_t i = 0; i < c.k.size; ++i) c.k[i] = c.v[i] = uint8_t(r.below(2) ? 0xff : r.next());
  for (int64_t i = 0; i < num_pages + extra; ++i) c.pages.push_back(int32_t(i));
  for (size_t i = c.pages.size() - 1; i > 0; --i)
    std::swap(c.pages[i], c.pages[size_t(r.below(int64_t(i) + 1))]);
  for (int64_t i = 0; i < end; ++i) {
    const int64_t at = c.pages[size_t(i / kPage)] * c.stride;
    write(k, i, true, c.k.data() + at), write(v, i, false, c.v.data() + at);
  }
  return c;
}

void run(const Cache& c, int32_t format, int64_t head_dim, int64_t group, int64_t first,
         int64_t tokens, const float* q, float* out) {
  const float* qs[kMaxRows];
  float* outs[kMaxRows];
  for (int64_t r = 0; r < tokens * group; ++r)
    qs[r] = q + r * head_dim, outs[r] = out + r * head_dim;
  Array<float> scratch(attention_room(head_dim));
  const AttentionTask t = {tokens * group, tokens, group,      head_dim,   first,   qs, outs,
                           c.pages.data(), format, c.k.data(), c.v.data(), c.stride};
  isa_kernels()->attention(t, scratch.data());
}

// What pages of int4 multiply: one term of 8 bits for queries, and for the weights of a page times
// the values' scales. How much that loses depends on the values (half a step of the largest weight
// for each key), so there is no bound that finds faults, too: the formula rounds as the kernel
// does.
std::vector<double> rounded_query(const float* q, int64_t head_dim) {
  float largest = 0;
  for (int64_t d = 0; d < head_dim; ++d) largest = fmaxf(largest, fabsf(q[d]));
  std::vector<double> out;
  for (int64_t d = 0; d < head_dim; ++d)
    out.push_back(double(lrintf(q[d] * (127 / largest))) * largest / 127);
  return out;
}

// Replaces the weights of a page; `either` gets a step where float32 may round up or down.
void round_weights(double* p, const float* scales, int64_t seen, double* either) {
  const double tie = 1e-3;  // of a step; exponentials of float32 are within 127 · 1e-6
  double largest = 0;
  for (int64_t i = 0; i < seen; ++i) largest = fmax(largest, fabs(p[i] * scales[i]));
  for (int64_t i = 0; i < seen; ++i) {
    const double step = largest / 127 / scales[i], steps = p[i] / step;
    p[i] = rint(steps) * step;
    either[i] = fabs(fabs(steps - rint(steps)) - 0.5) < tie ? fabs(step) : 0;
  }
}

void check_row(const Rows& k, const Rows& v, int64_t seen, const float* q, const float* out) {
  const int64_t K = k.head_dim;
  // Values are below 4; queries and weights have as many bits as bfloat16, 15 or (int4) those
  // above.
  const double tolerance = k.format == LING_BF16 ? 0.06 : k.format == LING_I8 ? 2e-3 : 2e-5;
  const std::vector<double> query =
      k.format == LING_I4 ? rounded_query(q, K) : std::vector<double>(q, q + K);
  double top = -INFINITY, total = 0;
  std::vector<double> p(static_cast<size_t>(seen)), either(p.size());
  for (int64_t i = 0; i < seen; ++i) {
    double score = 0;
    for (int64_t d = 0; d < K; ++d) score += query[size_t(d)] * k.x.data()[i * K + d];
    p[size_t(i)] = score / sqrt(double(K));
    top = p[size_t(i)] > top || isnan(score) ? p[size_t(i)] : top;
  }
  for (double& x : p) total += x = exp(x - top);
  for (int64_t i = 0; k.format == LING_I4 && i < seen; i += kPage)
    round_weights(p.data() + i, v.scales.data() + i, kPage < seen - i ? kPage : seen - i,
                  either.data() + i);
  for (int64_t d = 0; d < K; ++d) {
    double want = 0, room = tolerance;
    bool bad = !isfinite(total);
    for (int64_t i = 0; i < seen; ++i) {
      const double value = v.x.data()[i * K + d];
      want += p[size_t(i)] / total * value;
      room += either[size_t(i)] / total * fabs(value);
      bad |= !isfinite(value);
    }
    if (bad)
      CHECK(!isfinite(out[d]), "format %d: %g where a visible row is not finite", k.format, out[d]);
    else
      CHECK(fabs(out[d] - want) < room, "format %d channel %d of %d, %d keys: %g, not %g", k.format,
            int(d), int(K), int(seen), out[d], want);
  }
}

}  // namespace

void fuzz_attention(uint64_t seed, int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) {
    Random r = {seed * 7919 + uint64_t(round)};
    const int32_t formats[] = {LING_I8, LING_BF16, LING_I4}, format = formats[r.below(3)];
    const int64_t K = 32 * r.between(1, 4), group = r.between(1, 6),
                  first = r.below(3) ? r.below(200) : 0;
    const int64_t tokens = r.between(1, 16 < kMaxRows / group ? 16 : kMaxRows / group),
                  keys = first + tokens;
    const bool odd = r.below(2);
    const Rows k = random_rows(r, format, keys, K, odd && !r.below(4)),
               v = random_rows(r, format, keys, K, odd);
    const Cache whole = random_cache(r, k, v, keys);
    Array<float> q(tokens * group * K, 1), out(tokens * group * K, 1), alone(group * K, 1);
    for (float& x : q) x = r.normal();
    run(whole, format, K, group, first, tokens, q.data(), out.data());
    for (int64_t t = 0; t < tokens; ++t) {
      const float *row = out.data() + t * group * K, *query = q.data() + t * group * K;
      for (int64_t g = 0; g < group; ++g)
        check_row(k, v, first + t + 1, query + g * K, row + g * K);
      // Other pages, other noise, and nothing of the later tokens.
      run(random_cache(r, k, v, first + t + 1), format, K, group, first + t, 1, query,
          alone.data());
      for (int64_t i = 0; i < group * K; ++i)
        CHECK(alone[i] == row[i] || (isnan(alone[i]) && isnan(row[i])),
              "seed %d round %d format %d: token %d of %d alone differs: %g, not %g", int(seed),
              int(round), format, int(t), int(tokens), alone[i], row[i]);
    }
  }
}
