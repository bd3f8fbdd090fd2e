// A warp, in two forms. Under nvcc it is the 32 lanes that a warp of the device is; elsewhere a
// loop over 32 lanes. The algorithms of this room are written over it once, so that what runs on a
// GPU is compiled for the host too and compared there with the CPU's codecs, bit for bit.
//
// An algorithm is a sequence of steps. each(step) runs one on every lane and ends when all have;
// what a lane keeps from one step to the next lies in a PerLane, what lanes hand to one another
// goes through scratch(), or through the operations between steps. All lanes take the same steps.
// Internal to the file that includes it.
#pragma once

#include <stdint.h>

#include "kernels/arithmetic.h"

// A lane's values stay in registers only where every index is known, so loops over them are
// unrolled by name; loops that are seldom run are kept short for the registers' sake.
#ifdef __CUDACC__
#define BLATAM_LANES static __device__ __forceinline__
#define BLATAM_MEMBER __device__ __forceinline__
#define BLATAM_UNROLL _Pragma("unroll")
#define BLATAM_ROLL _Pragma("unroll 1")
#else
#define BLATAM_LANES [[maybe_unused]] static inline
#define BLATAM_MEMBER inline
#define BLATAM_UNROLL
#define BLATAM_ROLL
#endif

namespace blatam::cuda {
namespace {

constexpr unsigned kLanes = 32;

template <unsigned kCount>
struct Floats {
  float of[kCount];
};

// Of two words the lesser of both 16-bit halves, each by itself.
BLATAM_LANES uint32_t lesser_halves(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __vminu2(a, b);
#else
  const uint32_t low = (a & 0xffffu) < (b & 0xffffu) ? a : b;
  const uint32_t high = a >> 16 < b >> 16 ? a : b;
  return (low & 0xffffu) | (high & 0xffff0000u);
#endif
}

#ifdef __CUDACC__

class Warp {
 public:
  template <class T>
  class PerLane {
   public:
    BLATAM_MEMBER T& operator[](unsigned /*lane*/) { return mine_; }

   private:
    T mine_;
  };

  BLATAM_MEMBER explicit Warp(uint8_t* scratch) : scratch_(scratch) {}

  template <class Step>
  BLATAM_MEMBER void each(const Step& step) {
    step(threadIdx.x % kLanes);
    __syncwarp();
  }
  // Each lane gets the least (greatest) of the `width` lanes, a power of two, around it.
  BLATAM_MEMBER void least(PerLane<uint32_t>& x, unsigned width) {
    for (unsigned mask = width / 2; mask > 0; mask /= 2)
      x[0] = min(x[0], __shfl_xor_sync(kAll, x[0], mask));
  }
  // The same for both 16-bit halves of a word, each by itself.
  BLATAM_MEMBER void least_halves(PerLane<uint32_t>& x, unsigned width) {
    for (unsigned mask = width / 2; mask > 0; mask /= 2)
      x[0] = lesser_halves(x[0], __shfl_xor_sync(kAll, x[0], mask));
  }
  BLATAM_MEMBER void greatest(PerLane<uint32_t>& x, unsigned width) {
    for (unsigned mask = width / 2; mask > 0; mask /= 2)
      x[0] = max(x[0], __shfl_xor_sync(kAll, x[0], mask));
  }
  // Each lane gets the sum over the lanes before it; the answer is the sum over all.
  BLATAM_MEMBER uint32_t sum_before(PerLane<uint32_t>& x) {
    uint32_t sum = x[0];
    for (unsigned step = 1; step < kLanes; step *= 2) {
      const uint32_t below = __shfl_up_sync(kAll, sum, step);
      if (threadIdx.x % kLanes >= step) sum += below;
    }
    x[0] = sum - x[0];
    return __shfl_sync(kAll, sum, kLanes - 1);
  }
  // Whether any lane says so.
  BLATAM_MEMBER bool any(PerLane<bool>& x) { return __any_sync(kAll, x[0]) != 0; }
  // Each of a lane's numbers becomes join(lane, it, that of the lane whose number differs in
  // `mask`).
  template <unsigned kCount, class Join>
  BLATAM_MEMBER void pair(PerLane<Floats<kCount>>& x, unsigned mask, const Join& join) {
    BLATAM_UNROLL
    for (unsigned i = 0; i < kCount; ++i) {
      const float theirs = __shfl_xor_sync(kAll, x[0].of[i], mask);
      x[0].of[i] = join(threadIdx.x % kLanes, x[0].of[i], theirs);
    }
  }
  BLATAM_MEMBER uint8_t* scratch() const { return scratch_; }

 private:
  static constexpr unsigned kAll = 0xffffffffu;
  uint8_t* scratch_;
};

// To a word that several warps may write.
BLATAM_LANES void add_bits(uint32_t* word, uint32_t bits) { atomicOr(word, bits); }

#else

class Warp {
 public:
  template <class T>
  class PerLane {
   public:
    T& operator[](unsigned lane) { return of_[lane]; }

   private:
    T of_[kLanes];
  };

  explicit Warp(uint8_t* scratch) : scratch_(scratch) {}

  template <class Step>
  void each(const Step& step) {
    for (unsigned lane = 0; lane < kLanes; ++lane) step(lane);
  }
  void least(PerLane<uint32_t>& x, unsigned width) {
    among(x, width, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
  }
  void least_halves(PerLane<uint32_t>& x, unsigned width) { among(x, width, lesser_halves); }
  void greatest(PerLane<uint32_t>& x, unsigned width) {
    among(x, width, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
  }
  uint32_t sum_before(PerLane<uint32_t>& x) {
    uint32_t sum = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      const uint32_t mine = x[lane];
      x[lane] = sum;
      sum += mine;
    }
    return sum;
  }
  bool any(PerLane<bool>& x) {
    bool one = false;
    for (unsigned lane = 0; lane < kLanes; ++lane) one = one || x[lane];
    return one;
  }
  template <unsigned kCount, class Join>
  void pair(PerLane<Floats<kCount>>& x, unsigned mask, const Join& join) {
    PerLane<Floats<kCount>> before = x;
    for (unsigned lane = 0; lane < kLanes; ++lane)
      for (unsigned i = 0; i < kCount; ++i)
        x[lane].of[i] = join(lane, before[lane].of[i], before[lane ^ mask].of[i]);
  }
  uint8_t* scratch() const { return scratch_; }

 private:
  template <class Better>
  static void among(PerLane<uint32_t>& x, unsigned width, const Better& better) {
    for (unsigned first = 0; first < kLanes; first += width) {
      uint32_t best = x[first];
      for (unsigned i = 1; i < width; ++i) best = better(best, x[first + i]);
      for (unsigned i = 0; i < width; ++i) x[first + i] = best;
    }
  }
  uint8_t* scratch_;
};

BLATAM_LANES void add_bits(uint32_t* word, uint32_t bits) { *word |= bits; }

#endif

}  // namespace
}  // namespace blatam::cuda
