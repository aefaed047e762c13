// Lookups in the correlation of all pairs of feature vectors, without computing them all, on the CPU.
//
// Vectors are dense. Each pixel's lookup takes the dot products with the few vectors around its target and
// mixes them bilinearly.

#include "correlation.h"

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kLanes = 64;  // partial sums, in as many registers as keep the adders busy

template <typename T>
ZOOFLEET_INLINE T dot(const T* a, const T* b, int64_t count) {
    T sums[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int64_t k = 0; k < kLanes; ++k) sums[k] += a[i + k] * b[i + k];
    }
    for (; i < count; ++i) sums[i % kLanes] += a[i] * b[i];
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
        for (int64_t k = 0; k < half; ++k) sums[k] += sums[k + half];
    }
    return sums[0];
}

// One call's arrays.
template <typename T>
struct Maps {
    const zoofleet_correlation_params& p;
    const T *features1, *features2, *coords;

    int64_t pixels() const { return p.height * p.width; }
    const T* vector1(int64_t image, int64_t pixel) const {
        return features1 + (image * pixels() + pixel) * p.channels;
    }
    Window<T> window(int64_t image, int64_t pixel) const {
        const T* xy = coords + image * 2 * pixels() + pixel;
        return make_window(xy[0], xy[pixels()], p);
    }
    // Offset in features2 of pixel (x, y) of a window.
    int64_t offset2(int64_t image, const Window<T>& window, int64_t x, int64_t y) const {
        return ((image * p.height2 + window.top + y) * p.width2 + window.left + x) * p.channels;
    }
    // dots (side, side), 0 outside the map.
    ZOOFLEET_INLINE void correlate(int64_t image, int64_t pixel, const Window<T>& window, T* dots) const {
        std::fill(dots, dots + window.side * window.side, T(0));
        for (int64_t y = window.y_begin; y < window.y_end; ++y) {
            for (int64_t x = window.x_begin; x < window.x_end; ++x) {
                dots[y * window.side + x] =
                    dot(vector1(image, pixel), features2 + offset2(image, window, x, y), p.channels);
            }
        }
    }
};

template <typename T>
ZOOFLEET_INLINE void look_up_inline(const Maps<T>& maps, int64_t image, int64_t pixel, T* output) {
    T dots[kMaxSide * kMaxSide];
    const Window<T> window = maps.window(image, pixel);
    maps.correlate(image, pixel, window, dots);
    const int64_t samples = window.side - 1;
    const T weights[4] = {window.weight(0, 0), window.weight(1, 0), window.weight(0, 1), window.weight(1, 1)};
    for (int64_t i = 0; i < samples; ++i) {
        for (int64_t j = 0; j < samples; ++j) {
            const T* at = dots + j * window.side + i;
            output[(i * samples + j) * maps.pixels()] = weights[0] * at[0] + weights[1] * at[1] +
                                                        weights[2] * at[window.side] +
                                                        weights[3] * at[window.side + 1];
        }
    }
}

// The gradients that belong to one pixel of the first map. `grad` are those of its samples.
template <typename T>
ZOOFLEET_INLINE void backward1_inline(const Maps<T>& maps, int64_t image, int64_t pixel, const T* grad,
                                      T* grad1, T* grad_coords) {
    T dots[kMaxSide * kMaxSide];
    const int64_t pixels = maps.pixels(), channels = maps.p.channels;
    const Window<T> window = maps.window(image, pixel);
    maps.correlate(image, pixel, window, dots);
    T* gradient = grad1 + (image * pixels + pixel) * channels;
    std::fill(gradient, gradient + channels, T(0));
    for (int64_t y = window.y_begin; y < window.y_end; ++y) {
        for (int64_t x = window.x_begin; x < window.x_end; ++x) {
            const T share = pixel_gradient(window, grad, pixels, x, y);
            const T* other = maps.features2 + maps.offset2(image, window, x, y);
            for (int64_t c = 0; c < channels; ++c) gradient[c] += share * other[c];
        }
    }
    T grad_x = 0, grad_y = 0;
    position_gradient(window, grad, pixels, dots, &grad_x, &grad_y);
    grad_coords[image * 2 * pixels + pixel] = grad_x;
    grad_coords[(image * 2 + 1) * pixels + pixel] = grad_y;
}

// Adds what one pixel of the first map gives to the channels [begin, end) of the second.
template <typename T>
ZOOFLEET_INLINE void backward2_inline(const Maps<T>& maps, int64_t image, int64_t pixel, const T* grad,
                                      int64_t begin, int64_t end, T* grad2) {
    const Window<T> window = maps.window(image, pixel);
    const T* own = maps.vector1(image, pixel);
    for (int64_t y = window.y_begin; y < window.y_end; ++y) {
        for (int64_t x = window.x_begin; x < window.x_end; ++x) {
            const T share = pixel_gradient(window, grad, maps.pixels(), x, y);
            T* gradient = grad2 + maps.offset2(image, window, x, y);
            for (int64_t c = begin; c < end; ++c) gradient[c] += share * own[c];
        }
    }
}

#define ZOOFLEET_CORRELATION_CLONES(T)                                                               \
    ZOOFLEET_CLONES void look_up(const Maps<T>& maps, int64_t image, int64_t pixel, T* output) {     \
        look_up_inline(maps, image, pixel, output);                                                  \
    }                                                                                                \
    ZOOFLEET_CLONES void backward1(const Maps<T>& maps, int64_t image, int64_t pixel, const T* grad, \
                                   T* grad1, T* grad_coords) {                                       \
        backward1_inline(maps, image, pixel, grad, grad1, grad_coords);                              \
    }                                                                                                \
    ZOOFLEET_CLONES void backward2(const Maps<T>& maps, int64_t image, int64_t pixel, const T* grad, \
                                   int64_t begin, int64_t end, T* grad2) {                           \
        backward2_inline(maps, image, pixel, grad, begin, end, grad2);                               \
    }
ZOOFLEET_CORRELATION_CLONES(float)
ZOOFLEET_CORRELATION_CLONES(double)
#undef ZOOFLEET_CORRELATION_CLONES

// Offset of a pixel's first sample.
template <typename T>
int64_t samples_of(const Maps<T>& maps, int64_t image, int64_t pixel) {
    const int64_t samples = 2 * maps.p.radius + 1;
    return image * samples * samples * maps.pixels() + pixel;
}

template <typename T>
int32_t forward(const zoofleet_correlation_params& p, const void* features1, const void* features2,
                const void* coords, int64_t threads, void* output) {
    const Maps<T> maps{p, static_cast<const T*>(features1), static_cast<const T*>(features2),
                       static_cast<const T*>(coords)};
    parallel_for(threads, p.batch * maps.pixels(), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t image = i / maps.pixels(), pixel = i % maps.pixels();
            look_up(maps, image, pixel, static_cast<T*>(output) + samples_of(maps, image, pixel));
        }
    });
    return ZOOFLEET_OK;
}

// Each thread owns channels of the second map's gradient, so no two add to one element.
template <typename T>
int32_t backward(const zoofleet_correlation_params& p, const void* grad_output, const void* features1,
                 const void* features2, const void* coords, int64_t threads, void* grad1, void* grad2,
                 void* grad_coords) {
    const Maps<T> maps{p, static_cast<const T*>(features1), static_cast<const T*>(features2),
                       static_cast<const T*>(coords)};
    const T* grad = static_cast<const T*>(grad_output);
    const int64_t count = p.batch * maps.pixels();
    parallel_for(threads, count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t image = i / maps.pixels(), pixel = i % maps.pixels();
            backward1(maps, image, pixel, grad + samples_of(maps, image, pixel), static_cast<T*>(grad1),
                      static_cast<T*>(grad_coords));
        }
    });
    parallel_for(threads, p.channels, [&](int64_t begin, int64_t end) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t image = i / maps.pixels(), pixel = i % maps.pixels();
            backward2(maps, image, pixel, grad + samples_of(maps, image, pixel), begin, end,
                      static_cast<T*>(grad2));
        }
    });
    return ZOOFLEET_OK;
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_correlation_lookup(const zoofleet_correlation_params* params, const void* features1,
                                    const void* features2, const void* coords, int32_t threads,
                                    void* output) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call =
        params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::forward<float> : zoofleet::forward<double>;
    return zoofleet::guarded([&] { return call(*params, features1, features2, coords, threads, output); });
}

int32_t zoofleet_correlation_lookup_backward(const zoofleet_correlation_params* params,
                                             const void* grad_output, const void* features1,
                                             const void* features2, const void* coords, int32_t threads,
                                             void* grad1, void* grad2, void* grad_coords) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call =
        params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::backward<float> : zoofleet::backward<double>;
    return zoofleet::guarded([&] {
        return call(*params, grad_output, features1, features2, coords, threads, grad1, grad2, grad_coords);
    });
}
