// Run lengths of masks and label maps, on the CPU.
//
// Images are stored row by row and COCO counts column by column: blocks of columns are transposed into the
// cache, where changes are looked for eight pixels at a time.

#include "rle.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kColumns = 64;  // columns in a block
constexpr int64_t kLabels = 256;
constexpr int64_t kShare = 1 << 18;  // pixels of one label map that are worth another thread

// Calls changed(position, value) for the first pixel of the columns [begin, end) of an image (height, width),
// and for each one that differs from the pixel before it.
template <typename Changed>
void visit_columns(const uint8_t* image, int64_t height, int64_t width, int64_t begin, int64_t end,
                   const Changed& changed) {
    if (height == 0) return;
    std::vector<uint8_t> block(static_cast<std::size_t>(kColumns * height + 1));
    uint8_t* columns = block.data() + 1;  // (kColumns, height)
    for (int64_t first = begin; first < end; first += kColumns) {
        const int64_t count = std::min(kColumns, end - first);
        for (int64_t y = 0; y < height; ++y) {
            const uint8_t* row = image + y * width + first;
            for (int64_t x = 0; x < count; ++x) columns[x * height + y] = row[x];
        }
        if (first == begin) {
            block[0] = columns[0];
            changed(first * height, columns[0]);
        }
        visit_changes(columns, count * height, [&](int64_t i) { changed(first * height + i, columns[i]); });
        block[0] = columns[count * height - 1];
    }
}

std::vector<uint8_t> encode_mask(const uint8_t* mask, int64_t height, int64_t width) {
    RunEncoder encoder;
    visit_columns(mask, height, width, 0, width, [&](int64_t position, uint8_t value) {
        if ((value != 0) != encoder.inside()) encoder.toggle(position);
    });
    return encoder.finish(height * width);
}

struct Change {
    int64_t position;
    uint8_t label;
};

// The shares of columns, each with its changes; the first of a share need not be one.
std::vector<std::vector<Change>> label_changes(const uint8_t* labels, int64_t height, int64_t width,
                                               int64_t threads) {
    const int64_t shares = std::max<int64_t>(1, std::min(threads, height * width / kShare));
    std::vector<std::vector<Change>> changes(static_cast<std::size_t>(shares));
    parallel_for(threads, shares, [&](int64_t begin, int64_t end) {
        for (int64_t share = begin; share < end; ++share) {
            visit_columns(
                labels, height, width, width * share / shares, width * (share + 1) / shares,
                [&](int64_t position, uint8_t label) { changes[share].push_back({position, label}); });
        }
    });
    return changes;
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_rle_encode(const uint8_t* masks, int64_t count, int64_t height, int64_t width,
                            int32_t threads, uint8_t* counts, int64_t capacity, int64_t* offsets) {
    if (count < 0 || !zoofleet::valid_image(height, width) || capacity < 0) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        std::vector<std::vector<uint8_t>> encoded(static_cast<std::size_t>(count));
        zoofleet::parallel_for(threads, count, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                encoded[i] = zoofleet::encode_mask(masks + i * height * width, height, width);
            }
        });
        return zoofleet::store(encoded, counts, capacity, offsets);
    });
}

int32_t zoofleet_rle_encode_labels(const uint8_t* labels, int64_t height, int64_t width, int32_t threads,
                                   uint8_t* counts, int64_t capacity, int64_t* offsets) {
    if (!zoofleet::valid_image(height, width) || capacity < 0) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        std::array<zoofleet::RunEncoder, zoofleet::kLabels> encoders;
        std::array<bool, zoofleet::kLabels> present{};
        int32_t current = -1;
        for (const auto& share : zoofleet::label_changes(labels, height, width, threads)) {
            for (const zoofleet::Change& change : share) {
                if (change.label == current) continue;
                if (current >= 0) encoders[current].toggle(change.position);
                encoders[change.label].toggle(change.position);
                current = change.label;
                present[change.label] = true;
            }
        }
        std::vector<std::vector<uint8_t>> encoded(zoofleet::kLabels);
        for (int64_t label = 0; label < zoofleet::kLabels; ++label) {
            if (present[label]) encoded[label] = encoders[label].finish(height * width);
        }
        return zoofleet::store(encoded, counts, capacity, offsets);
    });
}
