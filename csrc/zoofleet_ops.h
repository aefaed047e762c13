// The plain C ABI of libzoofleet_ops: kernels for the CPU, and the launching of those for CUDA, which are
// apart from it as code for the device.
//
// Arrays are dense and row-major, owned by the caller, and live on the host for the CPU functions and on the
// current CUDA device for the `_cuda` ones. Boxes are (x1, y1, x2, y2). `dtype` is a zoofleet_dtype and holds
// for every floating array of a call. CPU functions run on at most `threads` threads, which end before the
// call returns. CUDA functions only enqueue work on `stream`, a cudaStream_t. Every function but the queries
// returns a zoofleet_status; outputs are undefined unless that is ZOOFLEET_OK. No exception crosses this
// boundary.

#ifndef ZOOFLEET_OPS_H_
#define ZOOFLEET_OPS_H_

#include <stddef.h>
#include <stdint.h>

// Raised with every change below, so that a stale library is refused instead of called with the wrong
// arguments.
#define ZOOFLEET_OPS_ABI 7

#ifdef __CUDACC_RTC__
#define ZOOFLEET_API
#else
#define ZOOFLEET_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { ZOOFLEET_FLOAT32 = 0, ZOOFLEET_FLOAT64 = 1 } zoofleet_dtype;

typedef enum {
    ZOOFLEET_OK = 0,
    ZOOFLEET_INVALID_ARGUMENT = 1,  // a negative size, an unknown dtype, a threshold that is negative or NaN
    ZOOFLEET_INVALID_BATCH_INDEX = 2,  // rois[k][0] is not the index of an image
    ZOOFLEET_OUT_OF_MEMORY = 3,
    ZOOFLEET_INTERNAL = 4,
    ZOOFLEET_CUDA_ERROR = 1000  // plus the CUresult
} zoofleet_status;

// One axis-aligned region pooling, the same for every direction and device.
typedef struct {
    int64_t batch, channels, height, width;  // of the feature map (batch, channels, height, width)
    int64_t rois;                            // rows of rois (rois, 5): batch index, x1, y1, x2, y2
    int64_t pooled_height, pooled_width;
    double spatial_scale;    // from box to feature coordinates
    int64_t sampling_ratio;  // samples per bin and axis; <= 0: ceil(box size / pooled size)
    int32_t aligned;         // 1: shift by half a pixel and leave boxes below one pixel as they are
    int32_t dtype;
} zoofleet_roi_align_params;

// One lookup of the correlations between two feature maps, (batch, height, width, channels) and (batch,
// height2, width2, channels).
typedef struct {
    int64_t batch, channels, height, width, height2, width2;
    int64_t radius;  // 0 to 8
    int32_t dtype;
} zoofleet_correlation_params;

// One resizing of an image (height, width, 3).
typedef struct {
    int64_t height, width, out_height, out_width;
    int64_t row_taps, column_taps;  // at most height and width
    int64_t value_bytes;            // of a value of the output: 2 or 4
} zoofleet_resize_params;

// For each output row, the row_taps rows of the image from row_firsts (out_height) on with their weights
// (out_height, row_taps), as multiples of 2^-22; columns likewise. A window lies within the image, and the
// magnitudes of its weights add up to less than 2.
typedef struct {
    const int32_t *row_firsts, *row_weights, *column_firsts, *column_weights;
} zoofleet_resize_taps;

// One labelling of pixels by logits (channels, height, width), or (height, width, channels) where
// interleaved.
typedef struct {
    int64_t channels, height, width, out_height, out_width;  // channels: 1 to 256
    int32_t interleaved;
} zoofleet_argmax_params;

// For each output row, the row of logits above it (out_height), and the weight in [0, 1] of the next one; for
// each output column, the column left of it (out_width), and the weights of that and of the next one. There
// is no next one after the last, which then stands for it.
typedef struct {
    const int32_t* aboves;
    const float* row_weights;
    const int32_t* lefts;
    const float *left_weights, *right_weights;
} zoofleet_argmax_taps;

// One pasting of masks (masks, side, side), float32, into an image.
typedef struct {
    int64_t masks, side, height, width;
    double threshold;
} zoofleet_paste_params;

// Returns the ZOOFLEET_OPS_ABI that the library was built with. The CUDA kernels have a symbol that ends in
// it.
ZOOFLEET_API int32_t zoofleet_ops_abi(void);

// Greedy non-maximum suppression.
//
// boxes (count, 4); order (count): box indices, best first; labels (count) by box index, or NULL: only boxes
// of equal label suppress each other. A box goes when its IoU with a better box that stays is above
// iou_threshold (>= 0). An IoU that is NaN (a NaN coordinate, two empty boxes, two infinite ones) is above
// nothing. keep (count) receives the indices of the boxes that stay, best first, and *kept their number.
ZOOFLEET_API int32_t zoofleet_nms(const void* boxes, const int64_t* order, const int64_t* labels,
                                  int64_t count, double iou_threshold, int32_t dtype, int32_t threads,
                                  int64_t* keep, int64_t* kept);

// Average of bilinear samples in each bin: output (rois, channels, pooled_height, pooled_width).
//
// Samples farther than one pixel outside the feature map count as 0, as does every sample of a box that is
// not finite.
ZOOFLEET_API int32_t zoofleet_roi_align(const zoofleet_roi_align_params* params, const void* input,
                                        const void* rois, int32_t threads, void* output);

// Adds the gradient by grad_output (shaped as the output above) to grad_input (batch, channels, height,
// width). The sum is in one order whatever the number of threads.
ZOOFLEET_API int32_t zoofleet_roi_align_backward(const zoofleet_roi_align_params* params,
                                                 const void* grad_output, const void* rois, int32_t threads,
                                                 void* grad_input);

// The next two functions write COCO's compressed run lengths (`counts` of pycocotools) of several masks, one
// after the other: those of mask i are counts[offsets[i]] to counts[offsets[i + 1]]. `capacity` is the size
// of counts in bytes. Where the last of the offsets is above it, nothing is written to counts, and the call
// is to be repeated with a capacity of so many bytes.

// Run lengths of where masks over boxes are above the threshold, in the image.
//
// masks (masks, side, side), float32; extents (masks, 4): the first column, first row, last column and last
// row of the image over which a mask with one zero on either side is stretched bilinearly. Positions are
// computed in float32; each of the two interpolations, rows first, is rounded to float32 once. A mask with a
// value that is not finite is empty.
ZOOFLEET_API int32_t zoofleet_paste_masks_to_rle(const zoofleet_paste_params* params, const float* masks,
                                                 const int64_t* extents, int32_t threads, uint8_t* counts,
                                                 int64_t capacity, int64_t* offsets);

// Run lengths of `count` masks whose runs, of zeros and ones in turn and beginning with zeros, are given by
// where they end: ends holds runs[0] positions of the first mask, then runs[1] of the second, and so on. The
// last of a mask is its number of pixels.
ZOOFLEET_API int32_t zoofleet_compress_runs(const int64_t* ends, const int64_t* runs, int64_t count,
                                            int32_t threads, uint8_t* counts, int64_t capacity,
                                            int64_t* offsets);

// Resizes an image of bytes and looks the result up: output (3, out_height, out_width) holds values of table
// (3, 256). Rows are narrowed first; each of the two sums is rounded to the nearest byte.
ZOOFLEET_API int32_t zoofleet_resize_normalize(const zoofleet_resize_params* params,
                                               const zoofleet_resize_taps* taps, const uint8_t* image,
                                               const void* table, int32_t threads, void* output);

// The channel with the highest logit at each pixel: output (out_height, out_width). Of equal channels the
// first one counts, and NaN is the highest. Rows are mixed first: above + weight * (below - above), or below
// - (1 - weight) * (below - above) from a weight of 0.5 on; then columns: left_weight * left + right_weight *
// right. The product that is written first is not rounded before the sum.
ZOOFLEET_API int32_t zoofleet_upsampled_argmax(const zoofleet_argmax_params* params,
                                               const zoofleet_argmax_taps* taps, const float* logits,
                                               int32_t threads, uint8_t* output);

// For each vector of features1, its dot products with those of features2 around a position: output (batch,
// samples * samples, height, width), with samples = 2 * radius + 1 offsets from -radius to radius each way,
// the one along x slower. coords (batch, 2, height, width): x, then y. Products are mixed bilinearly; outside
// features2 they count as 0, as does everything around a position that is not finite.
ZOOFLEET_API int32_t zoofleet_correlation_lookup(const zoofleet_correlation_params* params,
                                                 const void* features1, const void* features2,
                                                 const void* coords, int32_t threads, void* output);

// The gradients by grad_output (shaped as the output above) of features1 and coords; that of features2 is
// added to grad2. The sums are in one order whatever the number of threads.
ZOOFLEET_API int32_t zoofleet_correlation_lookup_backward(const zoofleet_correlation_params* params,
                                                          const void* grad_output, const void* features1,
                                                          const void* features2, const void* coords,
                                                          int32_t threads, void* grad1, void* grad2,
                                                          void* grad_coords);

// The functions on a CUDA device, whose context must be the thread's current one.

// The device's code, and the functions of the CUDA driver that reach it, with its signatures.
typedef struct {
    int32_t (*get_function)(void** function, void* module, const char* name);  // cuModuleGetFunction
    int32_t (*launch)(void* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
                      uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, void* stream,
                      void** arguments,
                      void** extra);                                               // cuLaunchKernel
    int32_t (*fill)(uint64_t pointer, uint8_t value, size_t bytes, void* stream);  // cuMemsetD8Async
    void* module;
} zoofleet_cuda;

// Bytes of scratch memory that zoofleet_nms_cuda needs for `count` boxes.
ZOOFLEET_API int64_t zoofleet_nms_cuda_workspace(int64_t count, int32_t dtype);

// As zoofleet_nms; `kept` is on the device too. `workspace` is 256-byte aligned.
ZOOFLEET_API int32_t zoofleet_nms_cuda(const zoofleet_cuda* cuda, const void* boxes, const int64_t* order,
                                       const int64_t* labels, int64_t count, double iou_threshold,
                                       int32_t dtype, void* workspace, int64_t* keep, int64_t* kept,
                                       void* stream);

// As zoofleet_roi_align, but a row with an invalid batch index becomes NaN: refusing it would need to wait
// for the device.
ZOOFLEET_API int32_t zoofleet_roi_align_cuda(const zoofleet_cuda* cuda,
                                             const zoofleet_roi_align_params* params, const void* input,
                                             const void* rois, void* output, void* stream);

// As zoofleet_roi_align_backward, but atomic: the order of the sum, and so its last bits, change from run to
// run. A row with an invalid batch index adds nothing.
ZOOFLEET_API int32_t zoofleet_roi_align_backward_cuda(const zoofleet_cuda* cuda,
                                                      const zoofleet_roi_align_params* params,
                                                      const void* grad_output, const void* rois,
                                                      void* grad_input, void* stream);

// The pixels at which pasted masks change, column by column. With `ends` NULL, changes (masks, width)
// receives how many there are in each column. Otherwise changes holds the sums of those up to and with each
// column, and ends receives the ends of all runs, those of a mask closed by height * width:
// zoofleet_compress_runs takes them.
ZOOFLEET_API int32_t zoofleet_paste_masks_runs_cuda(const zoofleet_cuda* cuda,
                                                    const zoofleet_paste_params* params, const float* masks,
                                                    const int64_t* extents, int64_t* changes, int64_t* ends,
                                                    void* stream);

// As zoofleet_resize_normalize, with the arrays of taps on the device too; workspace (height, out_width, 3).
ZOOFLEET_API int32_t zoofleet_resize_normalize_cuda(const zoofleet_cuda* cuda,
                                                    const zoofleet_resize_params* params,
                                                    const zoofleet_resize_taps* taps, const uint8_t* image,
                                                    const void* table, uint8_t* workspace, void* output,
                                                    void* stream);

// As zoofleet_upsampled_argmax, with the arrays of taps on the device too.
ZOOFLEET_API int32_t zoofleet_upsampled_argmax_cuda(const zoofleet_cuda* cuda,
                                                    const zoofleet_argmax_params* params,
                                                    const zoofleet_argmax_taps* taps, const float* logits,
                                                    uint8_t* output, void* stream);

ZOOFLEET_API int32_t zoofleet_correlation_lookup_cuda(const zoofleet_cuda* cuda,
                                                      const zoofleet_correlation_params* params,
                                                      const void* features1, const void* features2,
                                                      const void* coords, void* output, void* stream);

// As zoofleet_correlation_lookup_backward, but grad2 is added to atomically: its last bits change from run to
// run.
ZOOFLEET_API int32_t zoofleet_correlation_lookup_backward_cuda(const zoofleet_cuda* cuda,
                                                               const zoofleet_correlation_params* params,
                                                               const void* grad_output, const void* features1,
                                                               const void* features2, const void* coords,
                                                               void* grad1, void* grad2, void* grad_coords,
                                                               void* stream);

#ifdef __cplusplus
}
#endif

#endif  // ZOOFLEET_OPS_H_
