// What correlation.cpp and correlation.cu share: the window of feature vectors that a lookup reads.

#ifndef ZOOFLEET_CORRELATION_H_
#define ZOOFLEET_CORRELATION_H_

#include <cmath>
#include <cstdint>

#include "iou.h"
#include "zoofleet_ops.h"

namespace zoofleet {

constexpr int64_t kMaxRadius = 8;
constexpr int64_t kMaxSide = 2 * kMaxRadius + 2;

// The pixels between which the samples of a lookup lie: `side` x `side` from (left, top) on, of which those
// in [x_begin, x_end) x [y_begin, y_end), counted from there, lie in the map. All samples have the same
// weights.
template <typename T>
struct Window {
    int64_t left, top, side;
    int64_t x_begin, x_end, y_begin, y_end;
    T right_weight, lower_weight;

    // The weights of the four pixels around sample (x, y) from left to right and top to bottom.
    ZOOFLEET_HOST_DEVICE T weight(int64_t right, int64_t lower) const {
        return (right ? right_weight : T(1) - right_weight) * (lower ? lower_weight : T(1) - lower_weight);
    }
};

// Empty where the position is not finite or nothing of the window lies in the map.
template <typename T>
ZOOFLEET_HOST_DEVICE inline Window<T> make_window(T x, T y, const zoofleet_correlation_params& p) {
    const int64_t side = 2 * p.radius + 2;
    Window<T> window{0, 0, side, 0, 0, 0, 0, T(0), T(0)};
    const T margin = static_cast<T>(p.radius + 1);
    if (!(x > -margin && x < static_cast<T>(p.width2) + margin)) return window;
    if (!(y > -margin && y < static_cast<T>(p.height2) + margin)) return window;
    const T left = std::floor(x), top = std::floor(y);
    window.left = static_cast<int64_t>(left) - p.radius;
    window.top = static_cast<int64_t>(top) - p.radius;
    window.right_weight = x - left;
    window.lower_weight = y - top;
    window.x_begin = window.left < 0 ? -window.left : 0;
    window.y_begin = window.top < 0 ? -window.top : 0;
    window.x_end = window.left + side > p.width2 ? p.width2 - window.left : side;
    window.y_end = window.top + side > p.height2 ? p.height2 - window.top : side;
    return window;
}

// The gradient at pixel (x, y) of the window from that of the samples, which are `stride` apart with the x
// offset slower.
template <typename T>
ZOOFLEET_HOST_DEVICE inline T pixel_gradient(const Window<T>& window, const T* grad, int64_t stride,
                                             int64_t x, int64_t y) {
    const int64_t samples = window.side - 1;
    T sum = 0;
    for (int64_t right = 0; right < 2; ++right) {
        for (int64_t lower = 0; lower < 2; ++lower) {
            const int64_t i = x - right, j = y - lower;
            if (i < 0 || i >= samples || j < 0 || j >= samples) continue;
            sum += window.weight(right, lower) * grad[(i * samples + j) * stride];
        }
    }
    return sum;
}

// Adds the gradient of the position, from those of the samples and the correlations (side, side) of the
// window's pixels, row by row.
template <typename T>
ZOOFLEET_HOST_DEVICE inline void position_gradient(const Window<T>& window, const T* grad, int64_t stride,
                                                   const T* dots, T* grad_x, T* grad_y) {
    const int64_t samples = window.side - 1;
    for (int64_t i = 0; i < samples; ++i) {
        for (int64_t j = 0; j < samples; ++j) {
            const T* at = dots + j * window.side + i;
            const T share = grad[(i * samples + j) * stride];
            const T upper = at[1] - at[0], lower = at[window.side + 1] - at[window.side];
            const T left = at[window.side] - at[0], right = at[window.side + 1] - at[1];
            *grad_x += share * ((T(1) - window.lower_weight) * upper + window.lower_weight * lower);
            *grad_y += share * ((T(1) - window.right_weight) * left + window.right_weight * right);
        }
    }
}

inline bool valid(const zoofleet_correlation_params& p) {
    const int64_t side = INT32_MAX;
    return p.batch >= 0 && p.channels >= 0 && p.height >= 0 && p.height <= side && p.width >= 0 &&
           p.width <= side && p.height2 >= 0 && p.height2 <= side && p.width2 >= 0 && p.width2 <= side &&
           p.radius >= 0 && p.radius <= kMaxRadius &&
           (p.dtype == ZOOFLEET_FLOAT32 || p.dtype == ZOOFLEET_FLOAT64);
}

}  // namespace zoofleet

#endif  // ZOOFLEET_CORRELATION_H_
