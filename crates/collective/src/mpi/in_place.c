/* What a function of MPI takes for the send buffer where the result shall replace the input: a macro, of which Rust sees nothing. */
#include <mpi.h>

const void *loract_mpi_in_place = MPI_IN_PLACE;
