// Runs kernels on the host: the threads of a block take turns as fibres, from one shuffle or barrier to the
// next, in rising or falling order. What depends on the order where it should not shows as a different
// result.

#include "emulation.h"

#include <dlfcn.h>
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

thread_local Index threadIdx, blockIdx;

namespace emulation {
namespace {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = 256 * 1024;

// A flow of control of its own.
struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
    void* fake_stack = nullptr;  // AddressSanitizer's
};

enum class State { kNew, kReady, kInWarp, kInBlock, kDone };

struct Thread {
    State state = State::kNew;
    Fibre* fibre = nullptr;
    unsigned mask = 0;
    const char* what = "";
    int line = 0, lane = 0;
    uint64_t value = 0, received = 0;
};

class Block {
  public:
    Block(const Entry& entry, const void* arguments, unsigned threads, bool falling)
        : entry_(entry), arguments_(arguments), threads_(threads), falling_(falling) {}

    // Runs all threads to their end.
    void run(Index block) {
        block_ = block;
        threads_.assign(threads_.size(), Thread{});
        started_ = 0;
        // Nobody may count on what shared memory holds at first: as floats these are NaN.
        shared_.reset(static_cast<char*>(std::malloc(entry_.shared_bytes)));
        if (shared_) std::memset(shared_.get(), 0xff, entry_.shared_bytes);
        do {
            while (started_ < threads_.size()) enter(free_fibre(), nullptr);
            for (unsigned i = 0; i < threads_.size(); ++i) {
                Thread& thread = threads_[nth(i)];
                if (thread.state == State::kReady) enter(thread.fibre, &thread);
            }
        } while (release());
    }

    // Called within a fibre.
    void wait(State state) {
        Thread& self = *current_;
        self.state = state;
        Fibre* fibre = self.fibre;
        __sanitizer_start_switch_fiber(&fibre->fake_stack, host_bottom_, host_bytes_);
        swapcontext(&fibre->context, &host_);
        __sanitizer_finish_switch_fiber(fibre->fake_stack, nullptr, nullptr);
    }
    Thread& current() { return *current_; }

  private:
    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };

    std::size_t nth(std::size_t i) const { return falling_ ? threads_.size() - 1 - i : i; }

    Fibre* free_fibre() {
        if (free_.empty()) {
            fibres_.push_back(std::make_unique<Fibre>());
            free_.push_back(fibres_.back().get());
        }
        return free_.back();
    }

    // Continues a thread, or lets a fresh fibre run those that have not begun until one of them waits.
    void enter(Fibre* fibre, Thread* thread) {
        if (thread) {
            select(thread);
        } else {
            free_.pop_back();
            getcontext(&fibre->context);
            fibre->context.uc_stack.ss_sp = fibre->stack.get();
            fibre->context.uc_stack.ss_size = kStackBytes;
            fibre->context.uc_link = nullptr;
            const auto self = reinterpret_cast<uintptr_t>(this);
            const auto own = reinterpret_cast<uintptr_t>(fibre);
            makecontext(&fibre->context, reinterpret_cast<void (*)()>(&Block::main), 4,
                        static_cast<unsigned>(self), static_cast<unsigned>(self >> 32),
                        static_cast<unsigned>(own), static_cast<unsigned>(own >> 32));
        }
        void* fake_stack = nullptr;
        __sanitizer_start_switch_fiber(&fake_stack, fibre->stack.get(), kStackBytes);
        swapcontext(&host_, &fibre->context);
        __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
    }

    static void main(unsigned low, unsigned high, unsigned own_low, unsigned own_high) {
        auto* self = reinterpret_cast<Block*>(static_cast<uintptr_t>(high) << 32 | low);
        auto* fibre = reinterpret_cast<Fibre*>(static_cast<uintptr_t>(own_high) << 32 | own_low);
        __sanitizer_finish_switch_fiber(nullptr, &self->host_bottom_, &self->host_bytes_);
        while (self->started_ < self->threads_.size()) {
            Thread& thread = self->threads_[self->nth(self->started_++)];
            thread.fibre = fibre;
            self->select(&thread);
            self->entry_.run(self->arguments_, self->shared_.get());
            thread.state = State::kDone;
        }
        self->free_.push_back(fibre);
        __sanitizer_start_switch_fiber(nullptr, self->host_bottom_, self->host_bytes_);
        setcontext(&self->host_);
    }

    void select(Thread* thread) {
        current_ = thread;
        threadIdx = {static_cast<unsigned>(thread - threads_.data()), 0, 0};
        blockIdx = block_;
    }

    // Lets those go on whose fellows have all arrived; false once all threads are done.
    bool release() {
        std::size_t done = 0;
        for (const Thread& thread : threads_) done += thread.state == State::kDone;
        if (done == threads_.size()) return false;
        bool any = false;
        std::size_t in_block = 0;
        for (Thread& thread : threads_) in_block += thread.state == State::kInBlock;
        if (in_block == threads_.size()) {
            for (Thread& thread : threads_) thread.state = State::kReady;
            return true;
        }
        for (std::size_t first = 0; first < threads_.size(); first += kWarp)
            any |= release_warp(&threads_[first]);
        if (!any) fail("a barrier that not all threads of the block reach", threads_[0]);
        return true;
    }

    bool release_warp(Thread* warp) {
        const Thread* first = nullptr;
        for (int lane = 0; lane < kWarp; ++lane) {
            if (warp[lane].state == State::kInWarp && !first) first = &warp[lane];
        }
        if (!first) return false;
        for (int lane = 0; lane < kWarp; ++lane) {
            const Thread& other = warp[lane];
            if (!(first->mask >> lane & 1)) continue;
            if (other.state != State::kInWarp || other.line != first->line ||
                std::strcmp(other.what, first->what)) {
                fail("divergence: not all lanes of the mask reach it together", *first);
            }
        }
        for (int lane = 0; lane < kWarp; ++lane) warp[lane].received = warp[warp[lane].lane].value;
        for (int lane = 0; lane < kWarp; ++lane) {
            if (first->mask >> lane & 1) warp[lane].state = State::kReady;
        }
        return true;
    }

    [[noreturn]] void fail(const char* why, const Thread& at) const {
        std::fprintf(stderr, "emulation: %s at line %d: %s\n", at.what, at.line, why);
        std::abort();
    }

    const Entry& entry_;
    const void* arguments_;
    std::vector<Thread> threads_;
    bool falling_;
    Index block_{};
    std::size_t started_ = 0;
    std::unique_ptr<char, Free> shared_;
    std::vector<std::unique_ptr<Fibre>> fibres_;
    std::vector<Fibre*> free_;
    ucontext_t host_{};
    const void* host_bottom_ = nullptr;
    std::size_t host_bytes_ = 0;
    Thread* current_ = nullptr;
};

thread_local Block* running = nullptr;
bool falling_order = false;

}  // namespace

uint64_t exchange(unsigned mask, const char* what, int line, uint64_t value, int lane) {
    Thread& self = running->current();
    self.mask = mask;
    self.what = what;
    self.line = line;
    self.value = value;
    self.lane = lane;
    running->wait(State::kInWarp);
    return self.received;
}

void wait_for_block(int line) {
    Thread& self = running->current();
    self.what = "__syncthreads";
    self.line = line;
    running->wait(State::kInBlock);
}

}  // namespace emulation

// What stands in for the driver's functions of csrc/zoofleet_ops.h.

extern "C" int32_t emulated_get_function(void** function, void*, const char* name) {
    *function = dlsym(RTLD_DEFAULT, name);
    return *function ? 0 : 500;  // CUDA_ERROR_NOT_FOUND
}

extern "C" int32_t emulated_launch(void* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z,
                                   uint32_t block_x, uint32_t block_y, uint32_t block_z,
                                   uint32_t shared_bytes, void*, void** arguments, void**) {
    const bool plain = grid_z == 1 && block_y == 1 && block_z == 1 && shared_bytes == 0 && block_x % 32 == 0;
    if (!plain || block_x == 0 || block_x > 1024 || grid_x == 0 || grid_y == 0)
        return 1;  // CUDA_ERROR_INVALID_VALUE
    const bool falling = emulation::falling_order;
    emulation::Block block(*static_cast<emulation::Entry*>(function), arguments[0], block_x, falling);
    emulation::running = &block;
    for (uint64_t i = 0; i < uint64_t{grid_x} * grid_y; ++i) {
        const uint64_t at = falling ? uint64_t{grid_x} * grid_y - 1 - i : i;
        block.run({static_cast<unsigned>(at % grid_x), static_cast<unsigned>(at / grid_x), 0});
    }
    return 0;
}

extern "C" int32_t emulated_fill(uint64_t pointer, uint8_t value, std::size_t bytes, void*) {
    std::memset(reinterpret_cast<void*>(pointer), value, bytes);
    return 0;
}

extern "C" void emulated_order(int32_t falling) { emulation::falling_order = falling != 0; }
