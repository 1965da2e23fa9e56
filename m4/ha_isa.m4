dnl SPDX-License-Identifier: Apache-2.0

dnl HA_ISA_LEVEL(NAME, option, FLAGS, PROLOGUE, BODY, [NEEDED-LEVEL])
dnl
dnl --disable-OPTION, and otherwise a probe that compiles and links real intrinsics: a compiler may
dnl know the flag but lack the header, or have an assembler too old for it. The probe is not run,
dnl so it works when cross-compiling; which level runs is decided by the library at run time.
dnl Defines HA_HAVE_NAME, the conditional HA_NAME, and NAME_CFLAGS; appends to $ha_levels.
AC_DEFUN([HA_ISA_LEVEL], [
  AC_ARG_ENABLE([$2], [AS_HELP_STRING([--disable-$2], [leave the $1 kernels out])])
  AC_SUBST([$1_CFLAGS])
  ha_isa_flags="$3"
  ha_have_$2=no
  m4_ifval([$6], [AS_IF([test "$ha_have_[]m4_tolower([$6])" = no], [enable_$2=no])])
  AS_IF([test "x$enable_$2" != xno],
    [AC_CACHE_CHECK([whether $CC builds $1 intrinsics], [ha_cv_isa_$2],
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
     AC_DEFINE([HA_HAVE_$1], [1], [Define to 1 if this build contains the $1 kernels.])])
  AM_CONDITIONAL([HA_$1], [test $ha_have_$2 = yes])
])
