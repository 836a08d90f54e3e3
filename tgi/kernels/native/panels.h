// Panels of weights as float32, a column of PANEL_ROWS rows at a time: see PanelKind for how they lie.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

// The compiler unrolls by itself where it has real vectors; told to do so without any, it takes minutes.
#if defined(TGI_AVX2)
#define TGI_UNROLL _Pragma("GCC unroll 32")
#else
#define TGI_UNROLL
#endif

// --- One row of lanes ----------------------------------------------------------------------------------------------

#if defined(TGI_VNNI)
typedef float Lanes __attribute__((vector_size(64)));
TGI_INLINE Lanes every(float value) { return (Lanes)_mm512_set1_ps(value); }
TGI_INLINE Lanes lanes_at(const float* source) { return (Lanes)_mm512_loadu_ps(source); }
TGI_INLINE void put_lanes(float* target, Lanes value) { _mm512_storeu_ps(target, (__m512)value); }
TGI_INLINE Lanes fused_lanes(Lanes a, Lanes b, Lanes c) {
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#else
typedef Float8 Lanes;
TGI_INLINE Lanes every(float value) { return all(value); }
TGI_INLINE Lanes lanes_at(const float* source) { return load(source); }
TGI_INLINE void put_lanes(float* target, Lanes value) { store(target, value); }
TGI_INLINE Lanes fused_lanes(Lanes a, Lanes b, Lanes c) { return fused(a, b, c); }
#endif

constexpr int LANES = sizeof(Lanes) / sizeof(float);
constexpr int PARTS = PANEL_ROWS / LANES;  // vectors that hold a column of a panel

// --- Stored panels -------------------------------------------------------------------------------------------------

// Half-precision numbers, LANES of them.
TGI_INLINE Lanes halves_at(const uint8_t* source) {
#if defined(TGI_VNNI)
    return (Lanes)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(TGI_AVX2)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#else
    Lanes out;
    for (int i = 0; i < LANES; i++) {
        uint16_t half;
        std::memcpy(&half, source + 2 * i, sizeof half);
        out[i] = half_to_float(half);
    }
    return out;
#endif
}

TGI_INLINE Lanes brains_at(const uint8_t* source) {
#if defined(TGI_VNNI)
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    return (Lanes)_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
#elif defined(TGI_AVX2)
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
#else
    Lanes out;
    for (int i = 0; i < LANES; i++) {
        uint16_t brain;
        std::memcpy(&brain, source + 2 * i, sizeof brain);
        out[i] = brain_to_float(brain);
    }
    return out;
#endif
}

// Four columns of each lane's row lie in 32 bits. Those of steps in the high nibbles are brought down together; then an
// integer is taken where it lies, as 2^(8 * byte) times itself, for a scale that is as much smaller.
#if defined(TGI_VNNI)
typedef __m512i Fours;
TGI_INLINE Fours fours_at(const uint8_t* source, int shift) {
    Fours four = _mm512_loadu_si512(source);
    return shift ? _mm512_srli_epi32(four, static_cast<unsigned>(shift)) : four;
}
TGI_INLINE Lanes byte_of(Fours four, int mask, int byte) {
    if (mask == 255 && byte == 3) return (Lanes)_mm512_cvtepi32_ps(_mm512_srli_epi32(four, 24));  // no sign
    return (Lanes)_mm512_cvtepi32_ps(_mm512_and_si512(four, _mm512_set1_epi32(mask << 8 * byte)));
}
#elif defined(TGI_AVX2)
typedef __m256i Fours;
TGI_INLINE Fours fours_at(const uint8_t* source, int shift) {
    Fours four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    return shift ? _mm256_srli_epi32(four, shift) : four;
}
TGI_INLINE Lanes byte_of(Fours four, int mask, int byte) {
    if (mask == 255 && byte == 3) return _mm256_cvtepi32_ps(_mm256_srli_epi32(four, 24));  // no sign
    return _mm256_cvtepi32_ps(_mm256_and_si256(four, _mm256_set1_epi32(mask << 8 * byte)));
}
#else
struct Fours {
    uint32_t of[LANES];
};
TGI_INLINE Fours fours_at(const uint8_t* source, int shift) {
    Fours four;
    std::memcpy(&four, source, sizeof four);
    for (int i = 0; i < LANES; i++) four.of[i] >>= shift;
    return four;
}
TGI_INLINE Lanes byte_of(const Fours& four, int mask, int byte) {
    int kept = mask == 255 && byte == 3 ? 0 : 8 * byte;
    Lanes out;
    for (int i = 0; i < LANES; i++)
        out[i] = static_cast<float>((four.of[i] >> 8 * byte & static_cast<uint32_t>(mask)) << kept);
    return out;
}
#endif

// Floats as stored: a column after the other, PANEL_ROWS values each.
template <int LAYOUT>
struct FloatPanel {
    typedef Lanes Raw;                  // what is read at once: RUN columns
    static constexpr int HALF_COUNT = 1, RUNS = 1, RUN = 1;
    static constexpr int64_t STEP = 1;  // columns of a group: HALF_COUNT x RUNS x RUN
    static constexpr int64_t BYTES = PANEL_ROWS * (LAYOUT == PANEL_F32 ? 4 : 2);
    struct Group {
        const uint8_t* source[PARTS];
    };
    TGI_INLINE void open(const uint8_t* column, Group* group) {
        for (int p = 0; p < PARTS; p++) group->source[p] = column + p * BYTES / PARTS;
    }
    TGI_INLINE Lanes read(const Group& group, int, int, int part) {
        if (LAYOUT == PANEL_F32) return lanes_at(reinterpret_cast<const float*>(group.source[part]));
        return LAYOUT == PANEL_F16 ? halves_at(group.source[part]) : brains_at(group.source[part]);
    }
    TGI_INLINE Lanes weight(const Group&, const Lanes& raw, int, int, int) { return raw; }
};

// Integers in groups of 32 columns; see PanelKind.
template <bool NIBBLES, bool WIDE, bool MINIMUMS, bool HALVES>
struct BlockPanel {
    typedef Fours Raw;
    static constexpr int HALF_COUNT = 2, RUNS = 4, RUN = 4;
    static constexpr int64_t STEP = GROUP;
    static constexpr int64_t SCALE_BYTES = PANEL_ROWS * (WIDE ? 4 : 2);
    static constexpr int64_t MINIMUM = SCALE_BYTES * (HALVES ? 2 : 1);
    static constexpr int64_t QUANTS = MINIMUM + (MINIMUMS ? SCALE_BYTES : 0);
    static constexpr int64_t BYTES = QUANTS + PANEL_ROWS * GROUP / (NIBBLES ? 2 : 1);
    struct Group {
        const uint8_t* quants;
        Lanes scale[HALVES ? 2 : 1][PARTS][4];  // for each byte of four columns
        Lanes minimum[HALVES ? 2 : 1][PARTS];
    };
    TGI_INLINE Lanes scales_at(const uint8_t* source, int part) {
        if (WIDE) return lanes_at(reinterpret_cast<const float*>(source) + LANES * part);
        return halves_at(source + 2 * LANES * part);
    }
    TGI_INLINE void open(const uint8_t* panel, Group* group) {
        group->quants = panel + QUANTS;
TGI_UNROLL
        for (int p = 0; p < PARTS; p++) {
TGI_UNROLL
            for (int h = 0; h < (HALVES ? 2 : 1); h++) {
                Lanes scale = scales_at(panel + h * SCALE_BYTES, p);
                group->scale[h][p][0] = scale;
                group->scale[h][p][1] = scale * every(0x1p-8f);
                group->scale[h][p][2] = scale * every(0x1p-16f);
                group->scale[h][p][3] = NIBBLES ? scale * every(0x1p-24f) : scale;
                // What stored integers are too large by, times the scale: exact, as every product below is.
                group->minimum[h][p] =
                    MINIMUMS ? scales_at(panel + MINIMUM, p) : scale * every(NIBBLES ? -8.0f : -128.0f);
            }
        }
    }
    TGI_INLINE Fours read(const Group& group, int half, int run, int part) {
        int step = NIBBLES ? run : half * RUNS + run;
        return fours_at(group.quants + step * 64 + part * LANES * 4, NIBBLES && half ? 4 : 0);
    }
    TGI_INLINE Lanes weight(const Group& group, const Fours& raw, int half, int byte, int part) {
        int scale = HALVES ? half : 0;
        Lanes integers = byte_of(raw, NIBBLES ? 15 : 255, byte);
        return fused_lanes(integers, group.scale[scale][part][byte], group.minimum[scale][part]);
    }
};

}  // namespace TGI_PATH
}  // namespace tgi
