/* All that is made for one kind of vector. Included once for each, with

   SET(name)  the name as this kind of vector has it
   TARGET     the attribute of functions that use it
   V, ROWS    floats a vector; rows of a product that are made at once
   MASK       of a vector's places, as OVER (false where either is NaN) and SEEN (of V bytes: which are not 0)
              make them and CHOOSE reads them
   and the operations on vectors below, which are forgotten at the end. */

#define INLINE static inline __attribute__((always_inline)) TARGET

#include "native_rows.h"
#include "native_product.h"
#include "native_scores.h"
#include "native_top_k.h"
#include "native_outputs.h"
#include "native_attend.h"

#undef INLINE
#undef SET
#undef TARGET
#undef V
#undef ROWS
#undef BLOCKS
#undef VECTOR
#undef ZERO
#undef ALL
#undef LOAD
#undef LOAD_FIRST
#undef STORE
#undef ADD
#undef MUL
#undef SUB
#undef MAX
#undef SUM
#undef HIGHEST
#undef FIRST
#undef FMA
#undef SEEN
#undef ROUND
#undef TIMES_TWO_TO
#undef DIV
#undef MIN
#undef EXPONENT
#undef MANTISSA
#undef MASK
#undef OVER
#undef CHOOSE
#undef BITS
#undef COMPRESS
#undef STORE_FLOAT16
#undef STORE_BFLOAT16
