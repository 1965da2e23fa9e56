dnl SPDX-License-Identifier: Apache-2.0

dnl HA_ISA_LEVEL(NAME, option, FLAGS, PROLOGUE, BODY, [NEEDED-LEVEL])
dnl
dnl --disable-OPTION, and otherwise a probe that compiles and links what the level is made of: a
dnl compiler may know the flag but lack the header, or have an assembler too old for it. The probe
dnl is not run, so it works when cross-compiling; which level runs is decided by the library at run
dnl time. Defines HA_HAVE_NAME to 1 or 0, substitutes NAME_CFLAGS, and appends to $ha_levels and to
dnl HA_LEVEL_LIBRARIES, which lib/Makefile.am links.
AC_DEFUN([HA_ISA_LEVEL], [
  AC_ARG_ENABLE([$2], [AS_HELP_STRING([--disable-$2], [leave the $1 kernels out])])
  AC_SUBST([$1_CFLAGS])
  AC_SUBST([HA_LEVEL_LIBRARIES])
  ha_isa_flags="$3"
  ha_have_$2=no
  m4_ifval([$6], [AS_IF([test "$ha_have_[]m4_tolower([$6])" = no], [enable_$2=no])])
  AS_IF([test "x$enable_$2" != xno],
    [AC_CACHE_CHECK([whether $CC builds the $1 kernels], [ha_cv_isa_$2],
       [ha_saved_CFLAGS=$CFLAGS
        CFLAGS="$CFLAGS $ha_isa_flags"
        AC_LINK_IFELSE([AC_LANG_SOURCE([$4
int main(int argc, char **argv)
{
    (void)argv;
    $5
}])],
          [ha_cv_isa_$2=yes], [ha_cv_isa_$2=no])
        CFLAGS=$ha_saved_CFLAGS])
     ha_have_$2=$ha_cv_isa_$2])
  AS_IF([test $ha_have_$2 = yes],
    [$1_CFLAGS=$ha_isa_flags
     ha_levels="$ha_levels $2"
     HA_LEVEL_LIBRARIES="$HA_LEVEL_LIBRARIES libha_$2.la"
     ha_have=1],
    [ha_have=0])
  AC_DEFINE_UNQUOTED([HA_HAVE_$1], [$ha_have],
                     [Define to 1 if this build contains the $1 kernels, to 0 if not.])
])
