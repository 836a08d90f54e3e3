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

// Four columns of each lane's row lie in 32 bits, as bytes. A byte is taken where it lies, as 2^(8 * byte) times itself,
// to meet an activation that is as much smaller. `excess`: how much more is stored than meant (0 or 128). A top byte
// would take the sign for itself: its highest bit is turned over, which takes 128 away.
#if defined(TGI_VNNI)
typedef __m512i Fours;
TGI_INLINE Fours fours_at(const uint8_t* source) { return _mm512_loadu_si512(source); }
TGI_INLINE Lanes byte_of(Fours four, int excess, int byte) {
    Fours bits = _mm512_and_si512(four, _mm512_set1_epi32(static_cast<int>(255u << 8 * byte)));
    if (excess && byte == 3) bits = _mm512_xor_si512(bits, _mm512_set1_epi32(INT32_MIN));
    else if (excess) bits = _mm512_sub_epi32(bits, _mm512_set1_epi32(excess << 8 * byte));
    return (Lanes)_mm512_cvtepi32_ps(bits);
}
#elif defined(TGI_AVX2)
typedef __m256i Fours;
TGI_INLINE Fours fours_at(const uint8_t* source) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
}
TGI_INLINE Lanes byte_of(Fours four, int excess, int byte) {
    Fours bits = _mm256_and_si256(four, _mm256_set1_epi32(static_cast<int>(255u << 8 * byte)));
    if (excess && byte == 3) bits = _mm256_xor_si256(bits, _mm256_set1_epi32(INT32_MIN));
    else if (excess) bits = _mm256_sub_epi32(bits, _mm256_set1_epi32(excess << 8 * byte));
    return _mm256_cvtepi32_ps(bits);
}
#else
struct Fours {
    uint32_t of[LANES];
};
TGI_INLINE Fours fours_at(const uint8_t* source) {
    Fours four;
    std::memcpy(&four, source, sizeof four);
    return four;
}
TGI_INLINE Lanes byte_of(const Fours& four, int excess, int byte) {
    Lanes out;
    for (int i = 0; i < LANES; i++) {
        int integer = static_cast<int>(four.of[i] >> 8 * byte & 255) - excess;
        out[i] = static_cast<float>(integer) * static_cast<float>(1 << 8 * byte);
    }
    return out;
}
#endif

// Floats as stored: a column after the other, PANEL_ROWS values each.
template <int LAYOUT>
struct FloatPanel {
    static constexpr int64_t BYTES = PANEL_ROWS * (LAYOUT == PANEL_F32 ? 4 : 2);  // of a column
    TGI_INLINE Lanes weight(const uint8_t* column, int part) {
        const uint8_t* source = column + part * BYTES / PARTS;
        if (LAYOUT == PANEL_F32) return lanes_at(reinterpret_cast<const float*>(source));
        return LAYOUT == PANEL_F16 ? halves_at(source) : brains_at(source);
    }
};

// Bytes in groups of 32 columns; see PanelKind.
template <bool WIDE, bool MINIMUMS_, bool HALVES>
struct BytePanel {
    static_assert(!(MINIMUMS_ && HALVES), "a minimum belongs to a whole group");
    static constexpr bool MINIMUMS = MINIMUMS_;
    static constexpr int SCALES = HALVES ? 2 : 1;  // a group
    static constexpr int RUNS = GROUP / 4 / 2;     // four columns each, of half a group
    static constexpr int64_t SCALE_BYTES = PANEL_ROWS * (WIDE ? 4 : 2);
    static constexpr int64_t MINIMUM = SCALE_BYTES * SCALES;
    static constexpr int64_t QUANTS = MINIMUM + (MINIMUMS ? SCALE_BYTES : 0);
    static constexpr int64_t BYTES = QUANTS + PANEL_ROWS * GROUP;  // of a group
    TGI_INLINE Lanes scales_at(const uint8_t* source, int part) {
        if (WIDE) return lanes_at(reinterpret_cast<const float*>(source) + LANES * part);
        return halves_at(source + 2 * LANES * part);
    }
    TGI_INLINE Lanes scale(const uint8_t* group, int which, int part) {
        return scales_at(group + which * SCALE_BYTES, part);
    }
    TGI_INLINE Lanes minimum(const uint8_t* group, int part) { return scales_at(group + MINIMUM, part); }
    // Four columns: run `run` of a half.
    TGI_INLINE Fours read(const uint8_t* group, int half, int run, int part) {
        return fours_at(group + QUANTS + (half * RUNS + run) * 64 + part * LANES * 4);
    }
    TGI_INLINE Lanes integers(const Fours& four, int byte) { return byte_of(four, MINIMUMS ? 0 : 128, byte); }
};

// --- A row of a panel: what embeddings read ------------------------------------------------------------------------

// As `dequantize` makes it of the stored row: the same steps, each rounded once.
static void panel_row_of_integers(
    const PanelSize& size, const uint8_t* panel, int64_t row, int64_t columns, float* out) {
    int64_t scale_bytes = PANEL_ROWS * (size.wide ? 4 : 2), minimum_at = scale_bytes * (size.halves ? 2 : 1);
    int64_t quants_at = minimum_at + (size.minimums ? scale_bytes : 0);
    const int excess = size.minimums ? 0 : size.nibbles ? 8 : 128;
    for (int64_t k = 0; k < columns; k += GROUP, panel += size.bytes, out += GROUP) {
        float scales[3] = {};  // of both halves; the minimum
        for (int i = 0; i < 3; i++) {
            const uint8_t* source = panel + (i == 2 ? minimum_at : i * scale_bytes) + row * (size.wide ? 4 : 2);
            if ((i == 1 && !size.halves) || (i == 2 && !size.minimums)) continue;
            uint16_t half;
            std::memcpy(&half, source, sizeof half);
            if (size.wide) std::memcpy(scales + i, source, sizeof(float));
            else scales[i] = half_to_float(half);
        }
        for (int j = 0; j < GROUP; j++) {
            int step = j / 4, high = size.nibbles && step >= 4;
            uint8_t byte = panel[quants_at + (step - 4 * high) * 64 + row * 4 + j % 4];
            int integer = (size.nibbles ? byte >> 4 * high & 15 : byte) - excess;
            float value = scales[size.halves && j >= GROUP / 2] * static_cast<float>(integer);
            out[j] = size.minimums ? value + scales[2] : value;
        }
    }
}

static void panel_row(const Matrix& table, int64_t row, float* out) {
    int64_t kind = table.layout % EXACT, columns = table.columns;
    const PanelSize& size = PANEL_SIZES[kind - FIRST_PANEL];
    int64_t groups = kind >= PANEL_F32 ? columns : columns / GROUP, within = row % PANEL_ROWS;
    const uint8_t* panel = table.data + row / PANEL_ROWS * groups * size.bytes;
    if (kind < PANEL_F32) return panel_row_of_integers(size, panel, within, columns, out);
    for (int64_t k = 0; k < columns; k++) {
        const uint8_t* source = panel + k * size.bytes + within * (size.bytes / PANEL_ROWS);
        uint16_t half;
        std::memcpy(&half, source, sizeof half);
        if (kind == PANEL_F32) std::memcpy(out + k, source, sizeof(float));
        else out[k] = kind == PANEL_F16 ? half_to_float(half) : brain_to_float(half);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
