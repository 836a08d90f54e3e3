// Operations on one vector at a time: norms, activations, rotation, cache writes, the likeliest token.
#pragma once

#include <cmath>

#include "kernels.h"
#include "wide.h"

namespace tgi {
namespace TGI_PATH {

// Sum over a vector of (x - centre)^power, lane by lane and then as `sum` does.
template <int POWER>
TGI_INLINE float sum_of(const float* x, int64_t width, float centre) {
    Float8 total = {};
    int64_t i = 0;
    for (; i + 8 <= width; i += 8) {
        Float8 v = load(x + i) - all(centre);
        total = POWER == 1 ? total + v : fused(v, v, total);
    }
    if (i < width) {
        alignas(32) float rest[8] = {};
        for (int64_t j = i; j < width; j++) rest[j - i] = x[j] - centre;
        Float8 v = load(rest);
        total = POWER == 1 ? total + v : fused(v, v, total);
    }
    return sum(total);
}

// (x - centre) * factor * weight (+ bias)
TGI_INLINE void scale_row(
    const float* x, int64_t width, float centre, float factor, const float* weight, const float* bias, float* out) {
    for (int64_t i = 0; i < width; i++) {
        float value = (x[i] - centre) * factor * weight[i];
        out[i] = bias ? value + bias[i] : value;
    }
}

TGI_INLINE const float* norm_row(const NormTask& task, int64_t unit) {
    return task.x + unit / task.inner_count * task.stride_outer + unit % task.inner_count * task.stride_inner;
}

static void rms_norm_units(const void* argument, int64_t begin, int64_t end) {
    const NormTask& task = *static_cast<const NormTask*>(argument);
    for (int64_t unit = begin; unit < end; unit++) {
        const float* x = norm_row(task, unit);
        float mean = sum_of<2>(x, task.width, 0.0f) / static_cast<float>(task.width);
        float factor = 1.0f / sqrtf(mean + task.eps);
        scale_row(x, task.width, 0.0f, factor, task.weight, nullptr, task.out + unit * task.width);
    }
}

static void layer_norm_units(const void* argument, int64_t begin, int64_t end) {
    const NormTask& task = *static_cast<const NormTask*>(argument);
    for (int64_t unit = begin; unit < end; unit++) {
        const float* x = norm_row(task, unit);
        float mean = sum_of<1>(x, task.width, 0.0f) / static_cast<float>(task.width);
        float variance = sum_of<2>(x, task.width, mean) / static_cast<float>(task.width);
        float factor = 1.0f / sqrtf(variance + task.eps);
        scale_row(x, task.width, mean, factor, task.weight, task.bias, task.out + unit * task.width);
    }
}

TGI_INLINE void rotate_head(float* head, const float* cos, const float* sin, int64_t half, bool interleaved) {
    for (int64_t i = 0; i < half; i++) {
        float* first = interleaved ? head + 2 * i : head + i;
        float* second = interleaved ? first + 1 : first + half;
        float a = *first, b = *second;
        *first = a * cos[i] - b * sin[i];
        *second = b * cos[i] + a * sin[i];
    }
}

// Unit: one token.
static void rotary_units(const void* argument, int64_t begin, int64_t end) {
    const RotaryTask& task = *static_cast<const RotaryTask*>(argument);
    for (int64_t token = begin; token < end; token++) {
        const float *cos = task.cos + token * task.half, *sin = task.sin + token * task.half;
        for (int part = 0; part < 2; part++) {
            for (int64_t head = 0; head < task.head_count[part]; head++) {
                float* vector = task.heads[part] + token * task.token_stride[part] + head * task.head_stride[part];
                // Two calls, so that each is compiled for its own pairs.
                if (task.interleaved)
                    rotate_head(vector, cos, sin, task.half, true);
                else
                    rotate_head(vector, cos, sin, task.half, false);
            }
        }
    }
}

TGI_INLINE void write_halves(const float* x, int64_t count, uint16_t* out) {
    int64_t i = 0;
#if defined(TGI_AVX2)
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(load(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; i++) out[i] = float_to_half(x[i]);
}

TGI_INLINE void write_brains(const float* x, int64_t count, uint16_t* out) {
    for (int64_t i = 0; i < count; i++) out[i] = float_to_brain(x[i]);
}

// Unit: one token.
static void write_kv_units(const void* argument, int64_t begin, int64_t end) {
    const WriteTask& task = *static_cast<const WriteTask*>(argument);
    for (int64_t token = begin; token < end; token++) {
        for (int part = 0; part < 2; part++) {
            for (int64_t head = 0; head < task.kv_heads; head++) {
                const float* x = task.values[part] + token * task.token_stride[part] + head * task.head_stride[part];
                int64_t at = (task.slots[token] * task.kv_heads + head) * task.head_dim;
                if (task.cache_type == CACHE_F32) {
                    float* out = static_cast<float*>(task.cache[part]) + at;
                    std::memcpy(out, x, static_cast<size_t>(task.head_dim) * sizeof(float));
                } else {
                    uint16_t* out = static_cast<uint16_t*>(task.cache[part]) + at;
                    if (task.cache_type == CACHE_BF16)
                        write_brains(x, task.head_dim, out);
                    else
                        write_halves(x, task.head_dim, out);
                }
            }
        }
    }
}

// x / (1 + e^-x)
template <class Floats>
TGI_INLINE Floats silu(Floats x) {
    return x / (exponential(-x) + 1.0f);
}

// 0.5 x (1 + tanh(y)) = x / (1 + e^-2y), with y = sqrt(2/pi) (x + 0.044715 x^3)
template <class Floats>
TGI_INLINE Floats gelu_tanh(Floats x) {
    Floats y = x * 0.7978845608028654f * fused(x * x, Floats{} + 0.044715f, Floats{} + 1.0f);
    return x / (exponential(y * -2.0f) + 1.0f);
}

template <class Floats>
TGI_INLINE Floats gelu(Floats x) {
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
    return x;
}

template <class Floats>
TGI_INLINE Floats activated(Floats x, int32_t activation) {
    switch (activation) {
        case SILU: return silu(x);
        case GELU: return gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        default: return larger(Floats{}, x);  // NaN stays NaN
    }
}

// Unit: one row.
static void activate_units(const void* argument, int64_t begin, int64_t end) {
    const ActivationTask& task = *static_cast<const ActivationTask*>(argument);
    for (int64_t row = begin; row < end; row++) {
        const float* x = task.x + row * task.width * (task.gated ? 2 : 1);
        const float* up = x + task.width;
        float* out = task.out + row * task.width;
        int64_t i = 0;
#if defined(TGI_VNNI)
        for (; i + WIDE <= task.width; i += WIDE) {
            Float16 value = activated(load_wide(x + i), task.activation);
            store(out + i, task.gated ? value * load_wide(up + i) : value);
        }
#endif
        for (; i + 8 <= task.width; i += 8) {
            Float8 value = activated(load(x + i), task.activation);
            store(out + i, task.gated ? value * load(up + i) : value);
        }
        if (int64_t rest = task.width - i; rest > 0) {
            Float8 value = activated(load_part(x + i, rest), task.activation);
            store_part(out + i, task.gated ? value * load_part(up + i, rest) : value, rest);
        }
    }
}

constexpr float LOG2_E = 1.44269504088896341f;

// Unit: a stretch of a row. Its sum: lane l adds up columns l, l + 8, ..., and the lanes are added as `sum` does.
static void greedy_units(const void* argument, int64_t begin, int64_t end) {
    const GreedyTask& task = *static_cast<const GreedyTask*>(argument);
    const float lowest = -__builtin_inff();
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t first = unit % task.parts * GREEDY_COLUMNS;
        const float* x = task.logits + unit / task.parts * task.stride + first;
        int64_t width = task.width - first < GREEDY_COLUMNS ? task.width - first : GREEDY_COLUMNS;
        int64_t whole = width / 8 * 8;
        alignas(32) float last[8] = {lowest, lowest, lowest, lowest, lowest, lowest, lowest, lowest};
        std::memcpy(last, x + whole, static_cast<size_t>(width - whole) * sizeof(float));
        Float8 most = load(last);
        // The accumulator is the second operand: a NaN logit does not replace it, and is found by the sum below.
        for (int64_t i = 0; i < whole; i += 8) most = larger(load(x + i), most);
        float best = largest(most);
        Float8 centre = all(best == lowest ? 0.0f : best), total = power((load(last) - centre) * all(LOG2_E));
        for (int64_t i = 0; i < whole; i += 8) total += power((load(x + i) - centre) * all(LOG2_E));
        task.found[unit] = {best, sum(total)};
    }
}

// Unit: one row, whose stretches are done.
static void greedy_rows_units(const void* argument, int64_t begin, int64_t end) {
    const GreedyTask& task = *static_cast<const GreedyTask*>(argument);
    for (int64_t row = begin; row < end; row++) {
        const GreedyPart* parts = task.found + row * task.parts;
        int64_t best = 0;
        for (int64_t i = 1; i < task.parts; i++) best = parts[i].most > parts[best].most ? i : best;
        float most = parts[best].most, total = 0.0f;
        for (int64_t i = 0; i < task.parts; i++)
            total += parts[i].total * power(all((parts[i].most - most) * LOG2_E))[0];
        const float* x = task.logits + row * task.stride;
        int64_t token = best * GREEDY_COLUMNS;
        while (token < task.width && !(x[token] == most)) token++;
        task.token_ids[row] = static_cast<int32_t>(token < task.width ? token : 0);
        task.logprobs[row] = -logf(total);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
