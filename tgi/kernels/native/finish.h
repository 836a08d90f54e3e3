// The end of a matmul, where sums meet the bias and what the result held.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

// Finished sums of `count` outputs of a token, from column `output` on, into the result.
TGI_INLINE void finish(const MatmulTask& task, int64_t token, const float* sums, int64_t count, int64_t output) {
    float* out = task.out + token * task.out_stride + output;
    const float* bias = task.bias ? task.bias + output : nullptr;
    int64_t n = 0;
    for (; n + 8 <= count; n += 8) {
        Float8 value = load(sums + n);
        if (bias) value = value + load(bias + n);
        store(out + n, task.accumulate ? load(out + n) + value : value);
    }
    for (; n < count; n++) {
        float value = bias ? sums[n] + bias[n] : sums[n];
        out[n] = task.accumulate ? out[n] + value : value;
    }
}

// Ask for what `finish` will write: results of many tokens are larger than the caches, their rows far from each other.
TGI_INLINE void ask_for_result(const MatmulTask& task, int64_t token, int64_t output) {
    __builtin_prefetch(task.out + token * task.out_stride + output, 1);
}

}  // namespace TGI_PATH
}  // namespace tgi
