# SPDX-License-Identifier: BSD-2-Clause
"""The steps of the build, one module for each thing that is built."""
