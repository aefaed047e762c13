// What upsampled_argmax.cpp and upsampled_argmax.cu share: the arithmetic of torch's lerp and interpolate,
// whose products are fused with the sums that they go into.

#ifndef ZOOFLEET_UPSAMPLED_ARGMAX_H_
#define ZOOFLEET_UPSAMPLED_ARGMAX_H_

#include <cmath>
#include <cstdint>

#include "iou.h"
#include "zoofleet_ops.h"

namespace zoofleet {

constexpr int64_t kMostChannels = 256;  // what a byte counts

ZOOFLEET_HOST_DEVICE inline float mix_rows(float above, float below, float weight) {
    const bool near = weight < 0.5f;
    return fmaf(near ? weight : weight - 1, below - above, near ? above : below);
}

ZOOFLEET_HOST_DEVICE inline float mix_columns(float left, float right, float left_weight,
                                              float right_weight) {
    return fmaf(left, left_weight, right * right_weight);
}

// NaN is the highest; of equal values the first stays.
ZOOFLEET_HOST_DEVICE inline bool beats(float value, float best) { return !(value <= best) & (best == best); }

inline bool valid(const zoofleet_argmax_params& p) {
    return p.channels > 0 && p.channels <= kMostChannels && p.height > 0 && p.width > 0 &&
           p.out_height >= 0 && p.out_width >= 0;
}

}  // namespace zoofleet

#endif  // ZOOFLEET_UPSAMPLED_ARGMAX_H_
