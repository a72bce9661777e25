// Packed matrices times rows of bfloat16 (rows_product.cpp), of arguments that were checked. May
// throw std::bad_alloc.
#ifndef LING_ROWS_PRODUCT_H
#define LING_ROWS_PRODUCT_H
#include "internal.h"

namespace ling {

// Rows [ends[e], ends[e + 1]) of x times matrix e of `count` back to back, of which w is the first.
// With `pairs` tiles of two matrices take turns, and y has the columns of each side by side.
struct RowsProduct {
  ling_matrix w;
  int64_t count;
  const int64_t* ends;
  bool pairs;
  const uint16_t* x;
  uint16_t* y;
};

void multiply_rows(const IsaKernels& kernels, const RowsProduct& p);

}  // namespace ling
#endif
