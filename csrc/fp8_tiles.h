// Quantising to FP8 as training does it (fp8_tiles.cpp), of arguments that were checked.
#ifndef LING_FP8_TILES_H
#define LING_FP8_TILES_H
#include "internal.h"

namespace ling {

void quantise_fp8(const IsaKernels& kernels, const ling_fp8& q);

}  // namespace ling
#endif
