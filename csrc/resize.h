// What resize.cpp and resize.cu share: Pillow's fixed-point arithmetic.

#ifndef ZOOFLEET_RESIZE_H_
#define ZOOFLEET_RESIZE_H_

#include <cstdint>

#include "iou.h"
#include "zoofleet_ops.h"

namespace zoofleet {

constexpr int64_t kChannels = 3;
constexpr int64_t kLevels = 256;  // of a byte
constexpr int32_t kBits = 22;     // after the binary point
constexpr int32_t kHalf = 1 << (kBits - 1);

ZOOFLEET_HOST_DEVICE inline uint8_t to_byte(int32_t sum) {
    const int32_t value = sum >> kBits;
    return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

inline bool valid(const zoofleet_resize_params& p) {
    return p.height > 0 && p.width > 0 && p.out_height >= 0 && p.out_width >= 0 && p.row_taps > 0 &&
           p.row_taps <= p.height && p.column_taps > 0 && p.column_taps <= p.width &&
           (p.value_bytes == 2 || p.value_bytes == 4);
}

}  // namespace zoofleet

#endif  // ZOOFLEET_RESIZE_H_
