// Stored weights to float32, bit-equal to the gguf package (tgi/checkpoint/blocks.py says what the bytes mean).
// `count` values, a whole number of blocks. Every product and sum is rounded by itself: no fused operations here.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

TGI_INLINE float scale_at(const uint8_t* bytes) {
    uint16_t half;
    std::memcpy(&half, bytes, sizeof half);
    return half_to_float(half);
}

static void dequantize_f32(const uint8_t* source, int64_t count, float* out) {
    std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float));
}

static void dequantize_f16(const uint8_t* source, int64_t count, float* out) {
    int64_t i = 0;
#if defined(TGI_AVX2)
    for (; i + 8 <= count; i += 8) {
        __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 2 * i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(halves));
    }
#endif
    for (; i < count; i++) out[i] = scale_at(source + 2 * i);
}

static void dequantize_bf16(const uint8_t* source, int64_t count, float* out) {
    int64_t i = 0;
#if defined(TGI_AVX2)
    for (; i + 8 <= count; i += 8) {
        __m128i brains = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 2 * i));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(brains), 16);
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(bits));
    }
#endif
    for (; i < count; i++) {
        uint16_t brain;
        std::memcpy(&brain, source + 2 * i, sizeof brain);
        out[i] = brain_to_float(brain);
    }
}

#if defined(TGI_AVX2)
TGI_INLINE __m256 low_eight(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
#endif

static void dequantize_q4_0(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 32, source += 18, out += 32) {
        float d = scale_at(source);
        const uint8_t* q = source + 2;
#if defined(TGI_AVX2)
        const __m128i mask = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
        const __m256 scale = _mm256_set1_ps(d);
        __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
        __m128i low = _mm_sub_epi8(_mm_and_si128(packed, mask), eight);
        __m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), mask), eight);
        _mm256_storeu_ps(out, _mm256_mul_ps(scale, low_eight(low)));
        _mm256_storeu_ps(out + 8, _mm256_mul_ps(scale, low_eight(_mm_unpackhi_epi64(low, low))));
        _mm256_storeu_ps(out + 16, _mm256_mul_ps(scale, low_eight(high)));
        _mm256_storeu_ps(out + 24, _mm256_mul_ps(scale, low_eight(_mm_unpackhi_epi64(high, high))));
#else
        for (int j = 0; j < 16; j++) {
            out[j] = d * static_cast<float>((q[j] & 15) - 8);
            out[j + 16] = d * static_cast<float>((q[j] >> 4) - 8);
        }
#endif
    }
}

static void dequantize_q4_1(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 32, source += 20, out += 32) {
        float d = scale_at(source), m = scale_at(source + 2);
        const uint8_t* q = source + 4;
#if defined(TGI_AVX2)
        const __m128i mask = _mm_set1_epi8(15);
        const Float8 scale = all(d), minimum = all(m);
        __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
        __m128i low = _mm_and_si128(packed, mask);
        __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), mask);
        store(out, scale * (Float8)low_eight(low) + minimum);
        store(out + 8, scale * (Float8)low_eight(_mm_unpackhi_epi64(low, low)) + minimum);
        store(out + 16, scale * (Float8)low_eight(high) + minimum);
        store(out + 24, scale * (Float8)low_eight(_mm_unpackhi_epi64(high, high)) + minimum);
#else
        for (int j = 0; j < 16; j++) {
            out[j] = d * static_cast<float>(q[j] & 15) + m;
            out[j + 16] = d * static_cast<float>(q[j] >> 4) + m;
        }
#endif
    }
}

static void dequantize_q5_0(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 32, source += 22, out += 32) {
        float d = scale_at(source);
        uint32_t high;
        std::memcpy(&high, source + 2, sizeof high);
        const uint8_t* q = source + 6;
        for (uint32_t j = 0; j < 16; j++) {
            uint32_t first = (q[j] & 15u) | (high >> j & 1u) << 4, second = q[j] >> 4 | (high >> (j + 16) & 1u) << 4;
            out[j] = d * static_cast<float>(static_cast<int32_t>(first) - 16);
            out[j + 16] = d * static_cast<float>(static_cast<int32_t>(second) - 16);
        }
    }
}

static void dequantize_q5_1(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 32, source += 24, out += 32) {
        float d = scale_at(source), m = scale_at(source + 2);
        uint32_t high;
        std::memcpy(&high, source + 4, sizeof high);
        const uint8_t* q = source + 8;
        for (uint32_t j = 0; j < 16; j++) {
            uint32_t first = (q[j] & 15u) | (high >> j & 1u) << 4, second = q[j] >> 4 | (high >> (j + 16) & 1u) << 4;
            out[j] = d * static_cast<float>(static_cast<int32_t>(first)) + m;
            out[j + 16] = d * static_cast<float>(static_cast<int32_t>(second)) + m;
        }
    }
}

static void dequantize_q8_0(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 32, source += 34, out += 32) {
        float d = scale_at(source);
        const int8_t* q = reinterpret_cast<const int8_t*>(source + 2);
#if defined(TGI_AVX2)
        const __m256 scale = _mm256_set1_ps(d);
        for (int j = 0; j < 32; j += 8) {
            __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + j));
            _mm256_storeu_ps(out + j, _mm256_mul_ps(low_eight(eight), scale));
        }
#else
        for (int j = 0; j < 32; j++) out[j] = static_cast<float>(q[j]) * d;
#endif
    }
}

static void dequantize_q2_k(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 256, source += 84, out += 256) {
        const uint8_t *scales = source, *qs = source + 16;
        float d = scale_at(source + 80), dmin = scale_at(source + 82);
        for (int sub = 0; sub < 16; sub++) {
            float scale = d * static_cast<float>(scales[sub] & 15), minimum = dmin * static_cast<float>(scales[sub] >> 4);
            const uint8_t* q = qs + (sub / 8) * 32 + (sub % 2) * 16;
            int shift = sub / 2 % 4 * 2;
            for (int j = 0; j < 16; j++) out[sub * 16 + j] = scale * static_cast<float>(q[j] >> shift & 3) - minimum;
        }
    }
}

static void dequantize_q3_k(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 256, source += 110, out += 256) {
        const uint8_t *mask = source, *qs = source + 32, *packed = source + 96;
        float d = scale_at(source + 108);
        for (int sub = 0; sub < 16; sub++) {
            int low = packed[sub % 8] >> (sub / 8 * 4) & 15, high = packed[8 + sub % 4] >> (sub / 4 * 2) & 3;
            float scale = d * static_cast<float>((low | high << 4) - 32);
            const uint8_t *q = qs + (sub / 8) * 32 + (sub % 2) * 16, *m = mask + (sub % 2) * 16;
            int shift = sub / 2 % 4 * 2, bit = sub / 2;
            for (int j = 0; j < 16; j++) {
                int value = (q[j] >> shift & 3) - (m[j] >> bit & 1 ? 0 : 4);
                out[sub * 16 + j] = scale * static_cast<float>(value);
            }
        }
    }
}

// Scale and minimum `sub` (0..7) of a Q4_K or Q5_K block, six bits each.
TGI_INLINE void six_bits(const uint8_t* packed, int sub, int* scale, int* minimum) {
    if (sub < 4) {
        *scale = packed[sub] & 63;
        *minimum = packed[sub + 4] & 63;
    } else {
        *scale = (packed[sub + 4] & 15) | (packed[sub - 4] >> 2 & 0x30);
        *minimum = packed[sub + 4] >> 4 | (packed[sub] >> 2 & 0x30);
    }
}

static void dequantize_q4_k(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 256, source += 144, out += 256) {
        float d = scale_at(source), dmin = scale_at(source + 2);
        for (int sub = 0; sub < 8; sub++) {
            int s, m;
            six_bits(source + 4, sub, &s, &m);
            float scale = d * static_cast<float>(s), minimum = dmin * static_cast<float>(m);
            const uint8_t* q = source + 16 + (sub / 2) * 32;
            int shift = sub % 2 * 4;
            for (int j = 0; j < 32; j++) out[sub * 32 + j] = scale * static_cast<float>(q[j] >> shift & 15) - minimum;
        }
    }
}

static void dequantize_q5_k(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 256, source += 176, out += 256) {
        float d = scale_at(source), dmin = scale_at(source + 2);
        const uint8_t* high = source + 16;
        for (int sub = 0; sub < 8; sub++) {
            int s, m;
            six_bits(source + 4, sub, &s, &m);
            float scale = d * static_cast<float>(s), minimum = dmin * static_cast<float>(m);
            const uint8_t* q = source + 48 + (sub / 2) * 32;
            int shift = sub % 2 * 4;
            for (int j = 0; j < 32; j++) {
                int value = (q[j] >> shift & 15) | (high[j] >> sub & 1) << 4;
                out[sub * 32 + j] = scale * static_cast<float>(value) - minimum;
            }
        }
    }
}

static void dequantize_q6_k(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 256, source += 210, out += 256) {
        const int8_t* scales = reinterpret_cast<const int8_t*>(source + 192);
        float d = scale_at(source + 208);
        for (int sub = 0; sub < 16; sub++) {
            float scale = d * static_cast<float>(scales[sub]);
            // 128 values take 64 bytes of low nibbles (64 values, then 64) and 32 bytes of high pairs (four times 32).
            int half = sub / 8, within = sub % 8;
            const uint8_t* low = source + half * 64 + within % 4 * 16;
            const uint8_t* high = source + 128 + half * 32 + within % 2 * 16;
            int low_shift = within / 4 * 4, high_shift = within / 2 * 2;
            for (int j = 0; j < 16; j++) {
                int value = ((low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4) - 32;
                out[sub * 16 + j] = scale * static_cast<float>(value);
            }
        }
    }
}

typedef void (*Dequantize)(const uint8_t* source, int64_t count, float* out);

static const Dequantize DEQUANTIZE[LAYOUT_COUNT] = {
    dequantize_f32,  dequantize_f16,  dequantize_bf16, dequantize_q4_0, dequantize_q4_1, dequantize_q5_0, dequantize_q5_1,
    dequantize_q8_0, dequantize_q2_k, dequantize_q3_k, dequantize_q4_k, dequantize_q5_k, dequantize_q6_k,
};

// Values [start, start + count) of one row.
TGI_INLINE void dequantize(const Matrix& matrix, int64_t row, int64_t start, int64_t count, float* out) {
    const LayoutSize size = LAYOUT_SIZES[matrix.layout];
    int64_t row_bytes = matrix.columns / size.values * size.bytes;
    DEQUANTIZE[matrix.layout](matrix.data + row * row_bytes + start / size.values * size.bytes, count, out);
}

}  // namespace TGI_PATH
}  // namespace tgi
