// Resizing and normalising bytes on a CUDA device, with the arithmetic of Pillow's resampling: one kernel
// narrows the rows of the image, a thread for each byte, and one weighs narrow rows against each other.

#include <cstdint>

#include "kernels.h"
#include "resize.h"

namespace zoofleet {

template <typename T>
__device__ void run(const ResizeNarrowRows<T>& k) {
    const zoofleet_resize_params& p = k.params;
    const int64_t element = blockIdx.x * k.kThreads + threadIdx.x;
    if (element >= p.height * p.out_width * kChannels) return;
    const int64_t c = element % kChannels, x = element / kChannels % p.out_width;
    const int64_t y = element / kChannels / p.out_width;
    const T* pixels = k.image + (y * p.width + k.taps.column_firsts[x]) * kChannels + c;
    int32_t sum = kHalf;
    for (int64_t i = 0; i < p.column_taps; ++i) {
        sum += k.taps.column_weights[x * p.column_taps + i] * pixels[i * kChannels];
    }
    k.narrow[element] = to_byte(sum);
}

template <typename T>
__device__ void run(const ResizeWeighRows<T>& k) {
    const zoofleet_resize_params& p = k.params;
    const int64_t element = blockIdx.x * k.kThreads + threadIdx.x;
    if (element >= kChannels * p.out_height * p.out_width) return;
    const int64_t x = element % p.out_width, y = element / p.out_width % p.out_height;
    const int64_t c = element / p.out_width / p.out_height;
    const int64_t line = p.out_width * kChannels;
    const uint8_t* pixels = k.narrow + k.taps.row_firsts[y] * line + x * kChannels + c;
    int32_t sum = kHalf;
    for (int64_t i = 0; i < p.row_taps; ++i) sum += k.taps.row_weights[y * p.row_taps + i] * pixels[i * line];
    k.output[element] = k.table[c * kLevels + to_byte(sum)];
}

}  // namespace zoofleet

ZOOFLEET_KERNEL(ResizeNarrowRows, uint8_t)
ZOOFLEET_KERNEL(ResizeWeighRows, uint16_t)
ZOOFLEET_KERNEL(ResizeWeighRows, uint32_t)
