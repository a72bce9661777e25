// Every kernel, compiled once per instruction set (LING_ISA_NAME names it). Only intrinsics, C
// headers and our own: an inlined template of the standard library, compiled with AVX-512, could
// replace the copy that older machines run.
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"

namespace ling {
namespace {

// E4M3 to bfloat16, byte by byte. The high byte follows from the upper half (sign, upper bits of
// the exponent).
const uint8_t fp8_high[16] = {60,  61,  62,  63,  64,  65,  66,  67,
                              188, 189, 190, 191, 192, 193, 194, 195};
// The exceptions, by ((byte + 1) & 127) < 16: NaN, then the magnitudes from 0 on.
const uint8_t fp8_odd_high[16] = {0x7f, 0, 59, 59, 59, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60};
const uint8_t fp8_odd_low[16] = {0xc0, 0,    0,    0x80, 0xc0, 0,    0x20, 0x40,
                                 0x60, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0};

// Weights in units of their scale become integers to be compared with the borders of codes: at 200
// to a unit what is beyond all borders saturates 16 bits, and 5 bits tell any two borders apart.
constexpr int kCodeUnit = 200;

// A function of signed bytes with at most two changes in each 16 of them, as tables of 16.
struct Bins {
  int8_t low[16], mid[16], high[16], below_mid[16], below_high[16];  // the last value before each
  explicit Bins(const int8_t* q) {
    for (int i = 0; i < 16; ++i) {
      const int first = (int8_t)(16 * i), last = first + 15;
      const auto change = [&](int at) {
        while (at < last && q[at + 128] == q[at + 129]) ++at;
        return at;
      };
      const int one = change(first), two = one < last ? change(one + 1) : last;
      low[i] = q[first + 128], mid[i] = q[(one < last ? one + 1 : last) + 128],
      high[i] = q[last + 128];
      below_mid[i] = (int8_t)one, below_high[i] = (int8_t)two;
    }
  }
};

#if defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#include "columns.h"
#else
#include "simd_generic.h"
#include "columns.h"
#endif

#include "rows.h"
#include "low_rank.h"
#include "product.h"
#include "attention.h"
#include "causal.h"
#include "loss.h"
#include "small.h"
#include "experts.h"
#include "causal_f32.h"
#include "fp8.h"
#include "adam8.h"
#include "pack.h"
#include "unpack.h"
#include "sampling.h"

}  // namespace

#ifdef __AMX_INT8__
const bool matrix_unit = true;
#else
const bool matrix_unit = false;
#endif

#define LING_NAME2(x) isa_##x
#define LING_NAME(x) LING_NAME2(x)
#define LING_TEXT2(x) #x
#define LING_TEXT(x) LING_TEXT2(x)
const IsaKernels LING_NAME(LING_ISA_NAME) = {LING_TEXT(LING_ISA_NAME),
                                             matrix_unit,
                                             rms_norm,
                                             rms_norm_gradient,
                                             quantise_row,
                                             round_row,
                                             quantise_row_i4,
                                             hadamard,
                                             product,
                                             low_rank,
                                             router,
                                             sigmoid,
                                             rotate,
                                             attention,
                                             embed_i8,
                                             read_bytes,
                                             pack,
                                             unpack,
                                             block_maxima,
                                             sum_exp,
                                             count_above,
                                             gather_scores,
                                             masked_scores,
                                             add_masses,
                                             list_masses,
                                             noise_bounds,
                                             causal_transpose<uint16_t>,
                                             causal_forward,
                                             causal_backward,
                                             causal_forward_f32,
                                             causal_backward_f32,
                                             loss_gradient,
                                             loss_gradient_f32,
                                             expert_forward,
                                             expert_backward,
                                             quantise_fp8_row,
                                             quantise_fp8_area,
                                             widen_e4m3,
                                             adam8,
                                             quantise8,
                                             dequantise8};

}  // namespace ling
