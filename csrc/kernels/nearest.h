// The tables of the nearest code point, for byte shuffles of 16 entries.

struct Nearest {
  __m128i low, mid, high, below_mid, below_high;
};
static inline Nearest make_nearest(const int8_t* q) {
  const Bins b(q);
  const auto table = [](const int8_t* p) { return _mm_loadu_si128((const __m128i*)p); };
  return {table(b.low), table(b.mid), table(b.high), table(b.below_mid), table(b.below_high)};
}
