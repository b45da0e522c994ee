# SPDX-License-Identifier: BSD-2-Clause
"""What a model will take of memory and instructions, told before it is deployed."""
