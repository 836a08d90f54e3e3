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

TGI_INLINE float brain_at(const uint8_t* bytes) {
    uint16_t brain;
    std::memcpy(&brain, bytes, sizeof brain);
    return brain_to_float(brain);
}

#if defined(TGI_AVX2)
TGI_INLINE __m256 low_eight(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
#endif

// The layouts that matter most, 32 values at a time in four vectors: `dequantize` stores them, and a product of few
// tokens multiplies them where they are.
#define TGI_UNPACK static inline __attribute__((always_inline)) void unpack(const uint8_t* source, Float8* out)

struct BlockF32 {
    static constexpr int64_t BYTES = 128;
    TGI_UNPACK { std::memcpy(out, source, BYTES); }
};

struct BlockF16 {
    static constexpr int64_t BYTES = 64;
    TGI_UNPACK {
#if defined(TGI_AVX2)
        for (int i = 0; i < 4; i++)
            out[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 16 * i)));
#else
        for (int i = 0; i < 32; i++) out[i / 8][i % 8] = scale_at(source + 2 * i);
#endif
    }
};

struct BlockBF16 {
    static constexpr int64_t BYTES = 64;
    TGI_UNPACK {
#if defined(TGI_AVX2)
        for (int i = 0; i < 4; i++) {
            __m128i brains = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 16 * i));
            out[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(brains), 16));
        }
#else
        for (int i = 0; i < 32; i++) out[i / 8][i % 8] = brain_at(source + 2 * i);
#endif
    }
};

// 32 small integers: the low nibbles of 16 bytes, then the high ones, less `offset`.
TGI_INLINE void unpack_nibbles(const uint8_t* bytes, int offset, Float8* out) {
#if defined(TGI_AVX2)
    const __m128i mask = _mm_set1_epi8(15), less = _mm_set1_epi8(static_cast<char>(offset));
    __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    __m128i low = _mm_sub_epi8(_mm_and_si128(packed, mask), less);
    __m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), mask), less);
    out[0] = low_eight(low);
    out[1] = low_eight(_mm_unpackhi_epi64(low, low));
    out[2] = low_eight(high);
    out[3] = low_eight(_mm_unpackhi_epi64(high, high));
#else
    for (int i = 0; i < 16; i++) {
        out[i / 8][i % 8] = static_cast<float>((bytes[i] & 15) - offset);
        out[2 + i / 8][i % 8] = static_cast<float>((bytes[i] >> 4) - offset);
    }
#endif
}

struct BlockQ4_0 {
    static constexpr int64_t BYTES = 18;
    TGI_UNPACK {
        Float8 scale = all(scale_at(source));
        unpack_nibbles(source + 2, 8, out);
        for (int i = 0; i < 4; i++) out[i] = scale * out[i];
    }
};

struct BlockQ4_1 {
    static constexpr int64_t BYTES = 20;
    TGI_UNPACK {
        Float8 scale = all(scale_at(source)), minimum = all(scale_at(source + 2));
        unpack_nibbles(source + 4, 0, out);
        for (int i = 0; i < 4; i++) out[i] = scale * out[i] + minimum;
    }
};

struct BlockQ8_0 {
    static constexpr int64_t BYTES = 34;
    TGI_UNPACK {
        Float8 scale = all(scale_at(source));
#if defined(TGI_AVX2)
        for (int i = 0; i < 4; i++) {
            __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source + 2 + 8 * i));
            out[i] = (Float8)low_eight(eight) * scale;
        }
#else
        for (int i = 0; i < 32; i++) out[i / 8][i % 8] = static_cast<float>(static_cast<int8_t>(source[2 + i]));
        for (int i = 0; i < 4; i++) out[i] = out[i] * scale;
#endif
    }
};

template <class Block>
static void dequantize_blocks(const uint8_t* source, int64_t count, float* out) {
    for (int64_t i = 0; i + 32 <= count; i += 32, source += Block::BYTES) {
        Float8 values[4];
        Block::unpack(source, values);
        for (int v = 0; v < 4; v++) store(out + i + 8 * v, values[v]);
    }
}

static void dequantize_f32(const uint8_t* source, int64_t count, float* out) {
    std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float));
}

static void dequantize_f16(const uint8_t* source, int64_t count, float* out) {
    dequantize_blocks<BlockF16>(source, count, out);
    for (int64_t i = count / 32 * 32; i < count; i++) out[i] = scale_at(source + 2 * i);
}

static void dequantize_bf16(const uint8_t* source, int64_t count, float* out) {
    dequantize_blocks<BlockBF16>(source, count, out);
    for (int64_t i = count / 32 * 32; i < count; i++) out[i] = brain_at(source + 2 * i);
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
    dequantize_f32,
    dequantize_f16,
    dequantize_bf16,
    dequantize_blocks<BlockQ4_0>,
    dequantize_blocks<BlockQ4_1>,
    dequantize_q5_0,
    dequantize_q5_1,
    dequantize_blocks<BlockQ8_0>,
    dequantize_q2_k,
    dequantize_q3_k,
    dequantize_q4_k,
    dequantize_q5_k,
    dequantize_q6_k,
};

// Values [start, start + count) of one row.
TGI_INLINE void dequantize(const Matrix& matrix, int64_t row, int64_t start, int64_t count, float* out) {
    const LayoutSize size = LAYOUT_SIZES[matrix.layout];
    int64_t row_bytes = matrix.columns / size.values * size.bytes;
    DEQUANTIZE[matrix.layout](matrix.data + row * row_bytes + start / size.values * size.bytes, count, out);
}

}  // namespace TGI_PATH
}  // namespace tgi
