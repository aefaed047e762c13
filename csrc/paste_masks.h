// What paste_masks.cpp and paste_masks.cu share: where the pixels of an image lie in a pasted mask.

#ifndef ZOOFLEET_PASTE_MASKS_H_
#define ZOOFLEET_PASTE_MASKS_H_

#include <cmath>
#include <cstdint>

#include "iou.h"
#include "zoofleet_ops.h"

namespace zoofleet {

// One axis of one mask: `side` samples with one zero on either side, stretched over the pixels [first, end).
struct Stretch {
    int64_t first, begin, end;  // [begin, end) is what of it lies in the image
    int64_t side;
    float scale;
};

// Sums wrap as torch's do: a coordinate that no int64 holds leaves nothing in the image.
ZOOFLEET_HOST_DEVICE inline Stretch make_stretch(int64_t first, int64_t last, int64_t length, int64_t side) {
    const int64_t wide =
        static_cast<int64_t>(static_cast<uint64_t>(last) - static_cast<uint64_t>(first) + 1u);
    const int64_t span = wide < 1 ? 1 : wide;
    const int64_t stop = static_cast<int64_t>(static_cast<uint64_t>(first) + static_cast<uint64_t>(span));
    const int64_t begin = first < 0 ? 0 : first;
    const int64_t end = stop > length ? length : stop;
    // torch divides a number by a tensor in these two steps.
    const float scale = 1.0f / static_cast<float>(span) * static_cast<float>(side + 2);
    return Stretch{first, begin, end < begin ? begin : end, side, scale};
}

// The samples `low` and `low + 1` between which a pixel lies, with their weights; 0 and side + 1 are the
// zeros.
struct Between {
    int32_t low;
    float low_weight, high_weight;
};

ZOOFLEET_HOST_DEVICE inline float closeness(float a, float b) {
    const float weight = 1.0f - std::fabs(a - b);
    return weight > 0.0f ? weight : 0.0f;
}

ZOOFLEET_HOST_DEVICE inline Between locate(const Stretch& axis, int64_t pixel) {
    float source = (static_cast<float>(pixel - axis.first) + 0.5f) * axis.scale - 0.5f;
    const float most = static_cast<float>(axis.side + 1);
    source = source < 0.0f ? 0.0f : source > most ? most : source;
    const float low = std::floor(source);
    return Between{static_cast<int32_t>(low), closeness(source, low), closeness(source, low + 1.0f)};
}

// Products of floats are exact in double, so the sum is rounded once, fused or not: every device and matrix
// product decides a pixel on the threshold alike.
ZOOFLEET_HOST_DEVICE inline float mix(float low_weight, float low, float high_weight, float high) {
    return static_cast<float>(static_cast<double>(low_weight) * static_cast<double>(low) +
                              static_cast<double>(high_weight) * static_cast<double>(high));
}

inline bool valid(const zoofleet_paste_params& p) {
    return p.masks >= 0 && p.side > 0 && p.side <= 1 << 20 && p.height >= 0 && p.height <= INT32_MAX &&
           p.width >= 0 && p.width <= INT32_MAX;
}

}  // namespace zoofleet

#endif  // ZOOFLEET_PASTE_MASKS_H_
