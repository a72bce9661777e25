// 32 columns as two vectors, one behind the other: where packing has no better order
// (simd_avx512.h).

struct Two {
  f32 x, y;
};
static inline Two load32(const uint16_t* p) { return {load_bf16(p), load_bf16(p + 16)}; }
static inline Two load32(const uint32_t* p) {
  return {load((const float*)p), load((const float*)p + 16)};
}
static inline void store_bytes(uint8_t* p, f32 x, f32 y) {
  store_i8((int8_t*)p, round_i32(x));
  store_i8((int8_t*)p + 16, round_i32(y));
}
