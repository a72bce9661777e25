// Causal attention of packed sequences and its gradient (train_attention.cpp), of arguments that
// were checked. Whatever allocates may throw std::bad_alloc.
#ifndef LING_TRAIN_ATTENTION_H
#define LING_TRAIN_ATTENTION_H
#include "internal.h"

namespace ling {

void causal_attention(const IsaKernels& kernels, const ling_causal& c);
void causal_gradient(const IsaKernels& kernels, const ling_causal& c, const void* dout, void* dq,
                     void* dk, void* dv);

}  // namespace ling
#endif
