dnl SPDX-License-Identifier: Apache-2.0

dnl HA_MODULE(NAME, PKG-CONFIG-SPEC, HEADER, FUNCTION, LIBRARY)
dnl
dnl An optional library: what pkg-config says if that links, else plain -lLIBRARY. The link test
dnl keeps a cross build from taking the build machine's files. Sets NAME_CFLAGS, NAME_LIBS and
dnl $ha_have_name.
AC_DEFUN([HA_MODULE], [
  m4_pushdef([ha_found], [ha_have_]m4_tolower([$1]))
  ha_found=no
  AC_ARG_VAR([$1_CFLAGS], [C compiler flags for $5, in place of pkg-config])
  AC_ARG_VAR([$1_LIBS], [linker flags for $5, in place of pkg-config])
  AS_IF([test -z "$$1_LIBS" && test -n "$PKG_CONFIG" && $PKG_CONFIG --exists "$2" 2>/dev/null],
    [ha_try_cflags=`$PKG_CONFIG --cflags "$2"`
     ha_try_libs=`$PKG_CONFIG --libs "$2"`
     _HA_TRY_LINK([$1], [$3], [$4], [pkg-config's $5])])
  AS_IF([test $ha_found = no],
    [ha_try_cflags=$$1_CFLAGS
     ha_try_libs=${$1_LIBS:--l$5}
     _HA_TRY_LINK([$1], [$3], [$4], [$ha_try_libs])])
  AS_IF([test $ha_found = no], [$1_CFLAGS= $1_LIBS=])
  m4_popdef([ha_found])
])

AC_DEFUN([_HA_TRY_LINK], [
  AC_MSG_CHECKING([whether $4 links])
  ha_saved_CFLAGS=$CFLAGS
  ha_saved_LIBS=$LIBS
  CFLAGS="$CFLAGS $ha_try_cflags"
  LIBS="$ha_try_libs $LIBS"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <stdio.h>
#include <$2>]], [[return (void *)$3 == NULL;]])],
    [ha_found=yes
     $1_CFLAGS=$ha_try_cflags
     $1_LIBS=$ha_try_libs])
  CFLAGS=$ha_saved_CFLAGS
  LIBS=$ha_saved_LIBS
  AC_MSG_RESULT([$ha_found])
])

dnl HA_OPENMP: AC_OPENMP, with its answer as $ha_have_openmp (yes, no, disabled). Its pragmas are no
dnl mistake without it: what they divide runs on one thread then.
AC_DEFUN([HA_OPENMP], [
  AC_OPENMP
  AS_CASE([$enable_openmp,$ac_cv_prog_c_openmp],
    [no,*], [ha_have_openmp=disabled],
    [*,unsupported], [ha_have_openmp=no],
    [ha_have_openmp=yes
     AC_DEFINE([HAVE_OPENMP], [1], [Define to 1 if the library is built with OpenMP.])])
  AS_IF([test "$ha_have_openmp" != yes],
    [HA_APPEND_CFLAGS([WARN_CFLAGS], [-Wno-unknown-pragmas])])
])

dnl HA_OPENBLAS: --with-openblas, --without-openblas, default: if it is there. The function probed
dnl is OpenBLAS's own, so another CBLAS is not mistaken for it.
AC_DEFUN([HA_OPENBLAS], [
  AC_ARG_WITH([openblas],
    [AS_HELP_STRING([--without-openblas],
                    [build the program without its unfused baseline])],
    [], [with_openblas=check])
  ha_have_openblas=no
  AS_IF([test "$with_openblas" = no], [OPENBLAS_CFLAGS= OPENBLAS_LIBS=],
    [HA_MODULE([OPENBLAS], [openblas], [cblas.h], [openblas_get_parallel], [openblas])])
  AS_IF([test $ha_have_openblas = yes],
    [AC_DEFINE([HAVE_OPENBLAS], [1], [Define to 1 if OpenBLAS and its cblas.h are used.])],
    [test "$with_openblas" = yes],
    [AC_MSG_ERROR([--with-openblas was given, but OpenBLAS does not link])])
])

dnl HA_SIMDE: can the AVX-512 kernels be compiled against SIMDe's emulation, for machines that lack
dnl AVX-512? It uses AVX2 for speed.
AC_DEFUN([HA_SIMDE], [
  AC_CACHE_CHECK([for SIMDe with AVX-512 BF16], [ha_cv_simde],
    [AC_PREPROC_IFELSE([AC_LANG_SOURCE([[#include <simde/x86/avx512/dpbf16.h>]])],
                       [ha_cv_simde=yes], [ha_cv_simde=no])])
  ha_have_simde=$ha_cv_simde
  AS_IF([test $ha_have_avx2 = no], [ha_have_simde=no])
  AM_CONDITIONAL([HAVE_SIMDE], [test $ha_have_simde = yes])
])

dnl HA_DLOPEN
dnl Backends that are loaded at run time. Off where no shared library is built: what is linked
dnl statically had better not load anything.
AC_DEFUN([HA_DLOPEN], [
  AC_ARG_ENABLE([modules],
    [AS_HELP_STRING([--disable-modules], [load no backends at run time])],
    [], [enable_modules=check])
  ha_modules=no
  AS_IF([test "x$enable_modules" != xno && test "x$enable_shared" = xyes],
    [AC_SEARCH_LIBS([dlopen], [dl])
     AC_CHECK_FUNCS([dlinfo dladdr dl_iterate_phdr])
     AS_CASE([$ac_cv_search_dlopen,$ac_cv_func_dlinfo,$ac_cv_func_dladdr,$ac_cv_func_dl_iterate_phdr],
       [no,*], [], [*,yes,yes,yes], [ha_modules=yes])])
  AS_IF([test "$ha_modules" = yes],
    [AC_DEFINE([HA_HAVE_MODULES], [1], [Define if backends may be loaded at run time.])],
    [test "x$enable_modules" = xyes],
    [AC_MSG_ERROR([--enable-modules: no shared library is built, or dlopen, dlinfo, dladdr or dl_iterate_phdr is missing])])
  AM_CONDITIONAL([HAVE_MODULES], [test "$ha_modules" = yes])
])
