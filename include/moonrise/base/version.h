/*
 * The version of moonrise: what `moonrise --version` says, and what both ends of a session tell each other.
 */
#ifndef MOONRISE_BASE_VERSION_H
#define MOONRISE_BASE_VERSION_H

#define MOONRISE_VERSION "0.1"

#endif
