// Panels of small integers as integer.h multiplies them: see PanelKind for how they lie.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

// What a panel holds; see PanelKind.
template <bool NIBBLES_, bool WIDE_, bool MINIMUMS_, bool HALVES_>
struct Panel {
    static constexpr bool NIBBLES = NIBBLES_, WIDE = WIDE_, MINIMUMS = MINIMUMS_, HALVES = HALVES_;
    static constexpr int64_t SCALE_BYTES = PANEL_ROWS * (WIDE ? 4 : 2);
    static constexpr int64_t MINIMUM = SCALE_BYTES * (HALVES ? 2 : 1);
    static constexpr int64_t QUANTS = MINIMUM + (MINIMUMS ? SCALE_BYTES : 0);
    static constexpr int64_t BYTES = QUANTS + PANEL_ROWS * GROUP / (NIBBLES ? 2 : 1);
};

// Ask for what comes after a group: weights come from memory. With few tokens that is all the time there is, and the
// next groups wait in the second-level cache, or in the first, where Intel's Emerald Rapids takes 6 to 9 % less for a
// step of one sequence; with more, a group is asked for shortly before it is used.
template <class P, int M>
TGI_INLINE void ask_for_panel(const uint8_t* group) {
    constexpr int64_t AHEAD = M <= 2 ? 6144 : 2048;
#if defined(TGI_VNNI) && !defined(TGI_PAIRS)
    constexpr int LEVEL = 3;
#else
    constexpr int LEVEL = M <= 2 ? 2 : 3;
#endif
    for (int64_t i = 0; i < P::BYTES; i += 64) __builtin_prefetch(group + AHEAD + i, 0, LEVEL);
}

}  // namespace TGI_PATH
}  // namespace tgi
