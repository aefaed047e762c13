// Resizing and normalising bytes on the CPU, with the arithmetic of Pillow's resampling.
//
// Each thread makes a share of the output's rows. It first narrows the rows of the image that those need: 16
// rows are transposed, so that the taps of an output column apply to 16 rows at once. Then it weighs narrow
// rows against each other, and looks the resulting bytes up in the table of normalised values.

#include "resize.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kRows = 16;
constexpr int64_t kShare = 1 << 16;  // bytes of the image that are worth another thread

// narrow (rows, out_width * 3) from image rows [0, rows), which start at `image`.
ZOOFLEET_CLONES void narrow_rows(const zoofleet_resize_params& p, const uint8_t* image, int64_t rows,
                                 const int32_t* firsts, const int32_t* weights, uint8_t* __restrict block,
                                 uint8_t* __restrict narrow) {
    const int64_t line = p.width * kChannels, out_line = p.out_width * kChannels;
    for (int64_t i = 0; i < line; ++i) {
        for (int64_t r = 0; r < kRows; ++r) block[i * kRows + r] = image[std::min(r, rows - 1) * line + i];
    }
    for (int64_t x = 0; x < p.out_width; ++x) {
        for (int64_t c = 0; c < kChannels; ++c) {
            int32_t sums[kRows];
            for (int64_t r = 0; r < kRows; ++r) sums[r] = kHalf;
            for (int64_t k = 0; k < p.column_taps; ++k) {
                const int32_t weight = weights[x * p.column_taps + k];
                const uint8_t* pixels = block + ((firsts[x] + k) * kChannels + c) * kRows;
                for (int64_t r = 0; r < kRows; ++r) sums[r] += weight * pixels[r];
            }
            for (int64_t r = 0; r < rows; ++r) narrow[r * out_line + x * kChannels + c] = to_byte(sums[r]);
        }
    }
}

// One output row, as bytes (out_width * 3), from the narrow rows that start at `narrow`.
ZOOFLEET_CLONES void weigh_rows(const zoofleet_resize_params& p, const uint8_t* narrow,
                                const int32_t* weights, int32_t* __restrict sums, uint8_t* __restrict bytes) {
    const int64_t line = p.out_width * kChannels;
    for (int64_t i = 0; i < line; ++i) sums[i] = kHalf;
    for (int64_t k = 0; k < p.row_taps; ++k) {
        const int32_t weight = weights[k];
        const uint8_t* row = narrow + k * line;
        for (int64_t i = 0; i < line; ++i) sums[i] += weight * row[i];
    }
    for (int64_t i = 0; i < line; ++i) bytes[i] = to_byte(sums[i]);
}

template <typename T>
void look_up(const zoofleet_resize_params& p, const uint8_t* bytes, const T* table, int64_t y, T* output) {
    for (int64_t c = 0; c < kChannels; ++c) {
        T* row = output + (c * p.out_height + y) * p.out_width;
        for (int64_t x = 0; x < p.out_width; ++x) row[x] = table[c * kLevels + bytes[x * kChannels + c]];
    }
}

template <typename T>
void resize(const zoofleet_resize_params& p, const zoofleet_resize_taps& taps, const uint8_t* image,
            const T* table, int64_t begin, int64_t end, T* output) {
    const auto bounds = std::minmax_element(taps.row_firsts + begin, taps.row_firsts + end);
    const int64_t first = *bounds.first, last = *bounds.second + p.row_taps;
    const int64_t line = p.width * kChannels, out_line = p.out_width * kChannels;
    std::vector<uint8_t> block(static_cast<std::size_t>(line * kRows));
    std::vector<uint8_t> narrow(static_cast<std::size_t>((last - first) * out_line));
    for (int64_t y = first; y < last; y += kRows) {
        narrow_rows(p, image + y * line, std::min(kRows, last - y), taps.column_firsts, taps.column_weights,
                    block.data(), narrow.data() + (y - first) * out_line);
    }
    std::vector<int32_t> sums(static_cast<std::size_t>(out_line));
    std::vector<uint8_t> bytes(static_cast<std::size_t>(out_line));
    for (int64_t y = begin; y < end; ++y) {
        weigh_rows(p, narrow.data() + (taps.row_firsts[y] - first) * out_line,
                   taps.row_weights + y * p.row_taps, sums.data(), bytes.data());
        look_up(p, bytes.data(), table, y, output);
    }
}

template <typename T>
int32_t resize_threaded(const zoofleet_resize_params& p, const zoofleet_resize_taps& taps,
                        const uint8_t* image, const void* table, int64_t threads, void* output) {
    const int64_t shares = std::min(threads, 1 + p.height * p.width * kChannels / kShare);
    parallel_for(shares, p.out_height, [&](int64_t begin, int64_t end) {
        if (begin == end) return;
        resize(p, taps, image, static_cast<const T*>(table), begin, end, static_cast<T*>(output));
    });
    return ZOOFLEET_OK;
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_resize_normalize(const zoofleet_resize_params* params, const zoofleet_resize_taps* taps,
                                  const uint8_t* image, const void* table, int32_t threads, void* output) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        return params->value_bytes == 2
                   ? zoofleet::resize_threaded<uint16_t>(*params, *taps, image, table, threads, output)
                   : zoofleet::resize_threaded<uint32_t>(*params, *taps, image, table, threads, output);
    });
}
