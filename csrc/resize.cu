// Resizing and normalising bytes on a CUDA device, with the arithmetic of Pillow's resampling: one kernel
// narrows the rows of the image, a thread for each byte, and one weighs narrow rows against each other.

#include <cstdint>

#include "cuda_status.h"
#include "resize.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kThreads = 256;

int64_t blocks(int64_t elements) { return (elements + kThreads - 1) / kThreads; }

// narrow (height, out_width, 3).
__global__ void narrow_rows(zoofleet_resize_params p, zoofleet_resize_taps taps, const uint8_t* image,
                            uint8_t* narrow) {
    const int64_t element = blockIdx.x * kThreads + threadIdx.x;
    if (element >= p.height * p.out_width * kChannels) return;
    const int64_t c = element % kChannels, x = element / kChannels % p.out_width;
    const int64_t y = element / kChannels / p.out_width;
    const uint8_t* pixels = image + (y * p.width + taps.column_firsts[x]) * kChannels + c;
    int32_t sum = kHalf;
    for (int64_t k = 0; k < p.column_taps; ++k) {
        sum += taps.column_weights[x * p.column_taps + k] * pixels[k * kChannels];
    }
    narrow[element] = to_byte(sum);
}

template <typename T>
__global__ void weigh_rows(zoofleet_resize_params p, zoofleet_resize_taps taps, const uint8_t* narrow,
                           const T* table, T* output) {
    const int64_t element = blockIdx.x * kThreads + threadIdx.x;
    if (element >= kChannels * p.out_height * p.out_width) return;
    const int64_t x = element % p.out_width, y = element / p.out_width % p.out_height;
    const int64_t c = element / p.out_width / p.out_height;
    const int64_t line = p.out_width * kChannels;
    const uint8_t* pixels = narrow + taps.row_firsts[y] * line + x * kChannels + c;
    int32_t sum = kHalf;
    for (int64_t k = 0; k < p.row_taps; ++k) sum += taps.row_weights[y * p.row_taps + k] * pixels[k * line];
    output[element] = table[c * kLevels + to_byte(sum)];
}

template <typename T>
int32_t launch(const zoofleet_resize_params& p, const zoofleet_resize_taps& taps, const uint8_t* image,
               const void* table, uint8_t* workspace, void* output, cudaStream_t stream) {
    const int64_t elements = kChannels * p.out_height * p.out_width;
    if (elements == 0) return ZOOFLEET_OK;
    narrow_rows<<<blocks(p.height * p.out_width * kChannels), kThreads, 0, stream>>>(p, taps, image,
                                                                                     workspace);
    weigh_rows<<<blocks(elements), kThreads, 0, stream>>>(p, taps, workspace, static_cast<const T*>(table),
                                                          static_cast<T*>(output));
    return launch_status();
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_resize_normalize_cuda(const zoofleet_resize_params* params, const zoofleet_resize_taps* taps,
                                       const uint8_t* image, const void* table, uint8_t* workspace,
                                       void* output, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto launch = params->value_bytes == 2 ? zoofleet::launch<uint16_t> : zoofleet::launch<uint32_t>;
    return launch(*params, *taps, image, table, workspace, output, static_cast<cudaStream_t>(stream));
}
