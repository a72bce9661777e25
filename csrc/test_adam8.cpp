// AdamW with moments of one byte against its formula (ling/ops/adam8.py), bit for bit: shards of
// any size, gradients that are not finite, codes of any byte, scales that are taken as they are;
// and wrong arguments.
#include <algorithm>

#include "internal.h"
#include "test.h"

using namespace ling;

namespace {

// The values of the codes, and behind them the middles of neighbours; the last is infinite. The
// step looks from the code below on: so no first moment below 0 gets the code of 0.
Array<float> make_map(bool is_signed) {
  std::vector<float> values = {0, 1};
  for (int i = 0; i < 7; ++i) {
    const int count = (is_signed ? 1 : 2) << i;
    for (int j = 0; j < count; ++j) {
      const float x = float(pow(10, i - 6) * (0.1 + 0.9 * (j + 0.5) / count));
      values.push_back(x);
      if (is_signed) values.push_back(-x);
    }
  }
  std::sort(values.begin(), values.end());
  Array<float> map(512, 1);
  for (int i = 0; i < 256; ++i) map[i] = values[size_t(i)];
  for (int i = 0; i < 255; ++i) map[256 + i] = (map[i] + map[i + 1]) * 0.5f;
  map[511] = INFINITY;
  return map;
}

uint8_t code_of(const float* limits, float x) {
  int code = 0;
  while (code < 255 && limits[code] < x) ++code;
  return uint8_t(code);
}

struct Shard {
  ling_adam8_shard c = {};
  Array<float> p, g, absmax1, absmax2;
  Array<uint8_t> codes1, codes2;
};

Shard random_shard(Random& r) {
  const int64_t sizes[] = {0, 1, 64, 255, 256, 257, 700, 66000};
  Shard s;
  const int64_t n = s.c.n = r.below(4) ? r.pick(sizes) : r.below(2000);
  const int64_t blocks = (n + kAdam8Block - 1) / kAdam8Block;
  s.p = Array<float>(n, 1), s.g = Array<float>(n, 2);
  s.absmax1 = Array<float>(blocks, 1), s.absmax2 = Array<float>(blocks);
  s.codes1 = Array<uint8_t>(n, 1), s.codes2 = Array<uint8_t>(n, 3);
  const float size = ldexpf(1, int(r.between(-20, 5)));
  for (float& x : s.p) x = r.normal();
  for (float& x : s.g) x = r.below(20) ? r.normal() * size : r.below(2) ? INFINITY : NAN;
  for (float& x : s.absmax1) x = r.below(3) ? r.uniform() * size : 0;
  for (float& x : s.absmax2) x = r.below(3) ? r.uniform() * size * size : 0;
  for (uint8_t& x : s.codes1) x = uint8_t(r.next());
  for (uint8_t& x : s.codes2) x = uint8_t(r.next());
  s.c.beta1 = 0.9f, s.c.beta2 = r.below(2) ? 0.95f : 0.999f;
  s.c.step = -1e-3f * r.uniform(), s.c.eps = 1e-8f, s.c.keep = 1 - 1e-4f * r.uniform();
  return s;
}

void point(Shard& s) {
  s.c.p = s.p.data(), s.c.g = s.g.data(), s.c.codes1 = s.codes1.data();
  s.c.codes2 = s.codes2.data(), s.c.absmax1 = s.absmax1.data(), s.c.absmax2 = s.absmax2.data();
}

struct Wanted {
  std::vector<float> p, absmax1, absmax2;
  std::vector<uint8_t> codes1, codes2;
};

// A step by the formula, each operation rounded by itself.
Wanted wanted(const Shard& s, const float* map1, const float* map2) {
  Wanted w;
  for (int64_t first = 0; first < s.c.n; first += kAdam8Block) {
    const int64_t end = std::min(first + kAdam8Block, s.c.n), block = first / kAdam8Block;
    std::vector<float> m, v;
    float top1 = 0, top2 = 0;
    for (int64_t i = first; i < end; ++i) {
      const float g = s.g.at[i], old1 = map1[s.codes1.at[i]] * s.absmax1.at[block];
      const float old2 = map2[s.codes2.at[i]] * s.absmax2.at[block];
      float one = s.c.beta1 * old1 + (1 - s.c.beta1) * g;
      float two = s.c.beta2 * old2 + (1 - s.c.beta2) * g * g;
      const float ratio = one / (sqrtf(two) + s.c.eps);
      const bool finite = two < INFINITY;
      w.p.push_back(finite ? (s.p.at[i] + s.c.step * ratio) * s.c.keep : s.p.at[i]);
      m.push_back(one = finite ? one : 0), v.push_back(two = finite ? two : 0);
      top1 = std::max(top1, fabsf(one)), top2 = std::max(top2, two);
    }
    w.absmax1.push_back(top1), w.absmax2.push_back(top2);
    for (size_t i = 0; i < m.size(); ++i) {
      const uint8_t code = code_of(map1 + 256, m[i] / (top1 > 0 ? top1 : 1));
      w.codes1.push_back(m[i] < 0 ? std::min<uint8_t>(code, 126) : code);
      w.codes2.push_back(code_of(map2 + 256, v[i] / (top2 > 0 ? top2 : 1)));
    }
  }
  return w;
}

template <class T>
void same(const Array<T>& got, const std::vector<T>& want, const char* what) {
  CHECK(got.size == int64_t(want.size()), "%s", what);
  for (int64_t i = 0; i < got.size; ++i)
    CHECK(!memcmp(&got.at[i], &want[size_t(i)], sizeof(T)) || got.at[i] == want[size_t(i)],
          "%s %d of %d: %g instead of %g", what, int(i), int(got.size), double(got.at[i]),
          double(want[size_t(i)]));
}

void fuzz_steps(Random& r, Array<float>& map1, Array<float>& map2) {
  std::vector<Shard> shards;
  for (int64_t i = r.below(4); i >= 0; --i) shards.push_back(random_shard(r));
  Array<float> tables(1024, 1);
  std::copy(map1.begin(), map1.end(), tables.data());
  std::copy(map2.begin(), map2.end(), tables.data() + 512);
  tables[256 + 126] = 0;  // the highest first moment that has a negative code
  std::vector<ling_adam8_shard> c;
  std::vector<Wanted> want;
  for (Shard& s : shards) {
    point(s), c.push_back(s.c);
    want.push_back(wanted(s, map1.data(), map2.data()));
  }
  ling_set_num_threads(int(r.between(1, 3)));
  CHECK(!ling_adam8(c.data(), int64_t(c.size()), tables.data()), "step");
  for (size_t i = 0; i < shards.size(); ++i) {
    same(shards[i].p, want[i].p, "parameter");
    same(shards[i].absmax1, want[i].absmax1, "scale"),
        same(shards[i].absmax2, want[i].absmax2, "scale");
    same(shards[i].codes1, want[i].codes1, "code"), same(shards[i].codes2, want[i].codes2, "code");
  }
}

// Values to codes and back; of values that are not finite only that nothing else happens.
void fuzz_values(Random& r, bool is_signed, const Array<float>& map) {
  const int64_t n = r.below(1500), blocks = (n + kAdam8Block - 1) / kAdam8Block;
  const bool given = r.below(2), odd = r.below(8) == 0;
  Array<float> x(n, 1), absmax(blocks, 1), back(n, 2);
  Array<uint8_t> codes(n, 1);
  for (float& v : x) v = is_signed ? r.normal() : fabsf(r.normal());
  for (float& v : x) v = odd && !r.below(50) ? NAN : v;
  for (float& v : absmax) v = r.below(4) ? r.uniform() : 0;
  CHECK(!ling_quantise8(x.data(), n, map.data(), is_signed, given, codes.data(), absmax.data()),
        "quantise");
  CHECK(!ling_dequantise8(codes.data(), absmax.data(), n, map.data(), back.data()), "dequantise");
  for (int64_t i = 0; i < n; ++i) {
    const float most = absmax[i / kAdam8Block], bounded = std::max(std::min(x[i], most), -most);
    CHECK(back[i] == map.at[codes[i]] * most, "%g", back[i]);
    if (odd) continue;
    const uint8_t want = code_of(map.data() + 256, bounded / (most > 0 ? most : 1));
    CHECK(codes[i] == want, "%g of %g: code %d instead of %d", x[i], most, codes[i], want);
  }
}

void check_refused(const Array<float>& map) {
  float value = 1;
  uint8_t code = 0;
  ling_adam8_shard s = {};
  CHECK(!ling_adam8(nullptr, 0, nullptr), "no shards");
  CHECK(!ling_adam8(&s, 1, map.data()), "a shard of nothing");
  s.n = 1;
  CHECK(ling_adam8(&s, 1, map.data()) == LING_BAD_ARGUMENT, "null pointers");
  s.n = -1;
  CHECK(ling_adam8(&s, 1, map.data()) == LING_BAD_ARGUMENT, "fewer than none");
  CHECK(ling_adam8(&s, -1, map.data()) == LING_BAD_ARGUMENT, "fewer than no shards");
  CHECK(ling_adam8(nullptr, 1, map.data()) == LING_BAD_ARGUMENT, "no shards at all");
  CHECK(ling_quantise8(nullptr, 1, map.data(), 1, 0, &code, &value) == LING_BAD_ARGUMENT, "null");
  CHECK(ling_quantise8(&value, -1, map.data(), 1, 0, &code, &value) == LING_BAD_ARGUMENT, "-1");
  CHECK(ling_dequantise8(&code, &value, 1, nullptr, &value) == LING_BAD_ARGUMENT, "no map");
}

}  // namespace

void fuzz_adam8(uint64_t seed, int64_t rounds) {
  Random r = {seed};
  Array<float> map1 = make_map(true), map2 = make_map(false);
  check_refused(map1);
  for (int64_t i = 0; i < rounds; ++i) {
    fuzz_steps(r, map1, map2);
    fuzz_values(r, true, map1), fuzz_values(r, false, map2);
  }
}
