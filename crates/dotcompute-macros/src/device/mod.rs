//! `#[device_handler]` and `#[device_fn]`: a Rust function that the CPU runs, and its translation to device code.
//!
//! The output has three parts: the function for the CPU ([`cpu`]), an item of the same name in the type namespace, and in it a function that
//! writes the C++ text at launch. rustc checks the first part; the translation ([`lower`]) accepts what it can translate with the same meaning.

mod calls;
mod control;
mod cpu;
mod expr;
mod loops;
mod lower;
mod methods;
mod refuse;
mod syntax;
mod text;
mod types;

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ItemFn, Pat, Result, ReturnType, Signature, Type, Visibility, parse_quote};

use crate::paths::module;
use lower::{Lower, Returns};
use types::{Parameter, Ty};

/// Which of the two attributes it is.
#[derive(Clone, Copy, PartialEq)]
pub enum Attribute {
    Handler,
    Function,
}

/// Returns the attribute's output. After an error it has the user's function as it is, so that nothing else is reported.
pub fn expand(attribute: Attribute, options: TokenStream, item: ItemFn, published: &str) -> TokenStream {
    match translate(attribute, options, &item, published) {
        Ok(tokens) => tokens,
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#error #[allow(dead_code)] #item)
        }
    }
}

fn translate(
    attribute: Attribute,
    options: TokenStream,
    item: &ItemFn,
    published: &str,
) -> Result<TokenStream> {
    let checks_overflow = read_options(options)?;
    check_signature(&item.sig)?;
    refuse::check_body(item, attribute == Attribute::Handler)?;
    let device = module(published, "device")?;
    match attribute {
        Attribute::Handler => handler(item, &device, checks_overflow),
        Attribute::Function => function(item, &device, checks_overflow),
    }
}

/// Returns whether overflow is checked.
fn read_options(options: TokenStream) -> Result<bool> {
    if options.is_empty() {
        return Ok(true);
    }
    let option: Ident = syn::parse2(options.clone())
        .map_err(|_| Error::new(options.span(), "expected nothing, or `unchecked`"))?;
    if option == "unchecked" {
        Ok(false)
    } else {
        Err(Error::new(option.span(), "expected nothing, or `unchecked`"))
    }
}

fn check_signature(sig: &Signature) -> Result<()> {
    let refuse = |span, text: &str| Err(Error::new(span, text));
    if let Some(token) = &sig.asyncness {
        return refuse(
            token.span(),
            "a device function is not `async`: a handler runs to its end; remove `async`",
        );
    }
    if !sig.generics.params.is_empty() {
        return refuse(
            sig.generics.span(),
            "a device function has no generic parameters; write a function for each type",
        );
    }
    if let Some(abi) = &sig.abi {
        return refuse(abi.span(), "a device function has Rust's calling convention; remove `extern`");
    }
    Ok(())
}

fn handler(item: &ItemFn, device: &TokenStream, checks_overflow: bool) -> Result<TokenStream> {
    let signature = HandlerSignature::read(&item.sig)?;
    let mut lower = Lower::new(item.sig.ident.to_string(), Returns::Code, checks_overflow);
    lower.context = Some(signature.context.to_string());
    let HandlerSignature { output, state, message, .. } = &signature;
    let of = |ty: &Type| quote_spanned!(ty.span()=> unit.type_name::<#ty>());
    let message_type = Ty::Cpp(lower.holes.add(of(&message.1)));
    let mut parameters = format!("Ctx &dc_ctx, const {} &dc_message", message_type.text());
    lower.declare_as(&message.0, String::from("dc_message"), message_type.clone(), true);
    let mut state_parameter = String::from("void *");
    let mut state_argument = String::new();
    if let Some((name, ty)) = state {
        let ty = Ty::Cpp(lower.holes.add(of(ty)));
        parameters.push_str(&format!(", {} &dc_state", ty.text()));
        state_parameter = format!("{} *dc_state", ty.text());
        state_argument = String::from(", *dc_state");
        lower.declare_as(name, String::from("dc_state"), ty, true);
    }
    lower.body(&item.block)?;
    let name = "dc_handler";
    let output_type = lower.holes.add(of(output));
    let text = finish(&lower, &format!("static __device__ int32_t {name}({parameters})"));
    // A handler that does not ask for its thread is sequential code: one thread runs it.
    let text = format!(
        "{text}\nextern \"C\" __device__ int32_t handle(Ctx *dc_ctx, {state_parameter}, const {} *dc_message, {output_type} *) {{\n\
         if (!dc::rust::each_thread && (dc_ctx->thread | dc_ctx->block) != 0) return 0;\nreturn {name}(*dc_ctx, *dc_message{state_argument});\n}}\n",
        message_type.text()
    );
    let write = lower.holes.fill(&types_of(&lower, &text));

    let (vis, ident) = (&item.vis, &item.sig.ident);
    let (output, message) = (&signature.output, &signature.message.1);
    let (start, run) = match &signature.state {
        Some((_, state)) => {
            (quote!(#device::DeviceHandlerWithoutState<#state, #message, #output>), quote!(#ident))
        }
        None => (
            quote!(#device::DeviceHandler<#device::NoState, #message, #output>),
            quote!(|ctx: &mut #device::DeviceContext<'_, #output>, _: &mut #device::NoState, message: &#message| #ident(ctx, message)),
        ),
    };
    let companion = companion(vis, ident);
    let mut cpu = item.clone();
    cpu::rewrite(&mut cpu, device, Some(&signature.context.to_string()), checks_overflow);
    Ok(quote! {
        #cpu
        #companion
        // The line numbers have the places of the user's tokens, for which they are no literals.
        #[allow(clippy::all)]
        impl #ident {
            /// Returns the handler, to launch it on the CPU or on a device.
            #vis fn handler() -> #start {
                fn write(unit: &mut #device::DeviceUnit) -> ::std::string::String {
                    let mut text = ::std::string::String::new();
                    #write
                    text
                }
                <#start>::new(::core::file!(), write, #run)
            }
        }
    })
}

fn function(item: &ItemFn, device: &TokenStream, checks_overflow: bool) -> Result<TokenStream> {
    let mut lower = Lower::new(item.sig.ident.to_string(), Returns::Value(Ty::Unit), checks_overflow);
    let mut declarations = String::from("int32_t &dc_fault");
    let mut types = Vec::new();
    for input in &item.sig.inputs {
        let (name, ty) = named_parameter(input)?;
        let Parameter { ty, declared, is_reference } = types::parameter(ty, &mut lower.holes)?;
        let cpp = lower.declare(&name, ty.clone(), is_reference);
        declarations.push_str(&format!(", {declared} {cpp}"));
        types.push(ty.text());
    }
    let returned = match &item.sig.output {
        ReturnType::Default => Ty::Unit,
        ReturnType::Type(_, ty) => match &**ty {
            Type::Reference(_) => {
                return Err(Error::new(
                    ty.span(),
                    "a device function does not return a reference; return an index or the value",
                ));
            }
            ty => types::translate(ty, &mut lower.holes)?,
        },
    };
    lower.returns = Returns::Value(returned.clone());
    lower.body(&item.block)?;
    let result =
        if matches!(returned, Ty::Unit) { String::from("dc::rust::Nothing") } else { returned.text() };
    let name = lower.holes.add(quote!(::std::string::String::from(name)));
    let head = format!("static __device__ {} {name}({declarations})", returned.text());
    let text = finish(&lower, &head);
    let write = lower.holes.fill(&types_of(&lower, &text));
    let prototype = lower.holes.fill(&format!("{head};\n"));
    let result = lower.holes.fill(&result);
    let parameters = types.iter().enumerate().map(|(index, ty)| {
        let fill = lower.holes.fill(ty);
        quote!(#index => { #fill })
    });

    let (vis, ident) = (&item.vis, &item.sig.ident);
    let companion = companion(vis, ident);
    let mut cpu = item.clone();
    cpu::rewrite(&mut cpu, device, None, checks_overflow);
    Ok(quote! {
        #cpu
        #companion
        #[allow(clippy::all)]
        impl #device::DeviceFunction for #ident {
            const KEY: &'static str = ::core::concat!(::core::module_path!(), ":", ::core::line!(), ":", ::core::column!(), ":", ::core::stringify!(#ident));
            fn prototype(unit: &mut #device::DeviceUnit, name: &str) -> ::std::string::String {
                let mut text = ::std::string::String::new();
                #prototype
                text
            }
            fn definition(unit: &mut #device::DeviceUnit, name: &str) -> ::std::string::String {
                let mut text = ::std::string::String::new();
                #write
                text
            }
            fn parameter(unit: &mut #device::DeviceUnit, index: usize) -> ::std::string::String {
                let mut text = ::std::string::String::new();
                match index { #(#parameters)* _ => {} }
                text
            }
            fn result(unit: &mut #device::DeviceUnit) -> ::std::string::String {
                let mut text = ::std::string::String::new();
                #result
                text
            }
        }
    })
}

/// Returns the text of a function with its faults.
fn finish(lower: &Lower, head: &str) -> String {
    let fault =
        if matches!(lower.returns, Returns::Code) { "int32_t dc_fault = 0;\n(void)dc_fault;\n" } else { "" };
    format!("{head} {{\n{fault}{}}}\n", lower.out)
}

/// Fills in the types of literals.
fn types_of(lower: &Lower, text: &str) -> String {
    text::replace_variables(text, |id| lower.types.name(id))
}

/// Returns an item of the function's name in the namespace of types, where the function itself is not.
fn companion(vis: &Visibility, ident: &Ident) -> TokenStream {
    quote! {
        #[doc(hidden)]
        #[allow(non_camel_case_types, missing_docs, dead_code)]
        #vis enum #ident {}
    }
}

/// The parameters of a handler.
struct HandlerSignature {
    context: Ident,
    output: Type,
    state: Option<(String, Type)>,
    message: (String, Type),
}

impl HandlerSignature {
    fn read(sig: &Signature) -> Result<Self> {
        let expected = "expected `fn name(ctx: &mut DeviceContext<Output>, state: &mut State, message: &Message) -> DeviceResult`, or the same without a state";
        let returns_result = matches!(&sig.output, ReturnType::Type(_, ty) if matches!(&**ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "DeviceResult")));
        if !returns_result {
            return Err(Error::new(
                sig.ident.span(),
                format!("a device handler returns `DeviceResult`; {expected}"),
            ));
        }
        let wrong = || Error::new(sig.inputs.span(), expected);
        let parameters = sig.inputs.iter().map(named_parameter).collect::<Result<Vec<_>>>()?;
        let (context, state, message) = match &*parameters {
            [context, state, message] => (context, Some(state), message),
            [context, message] => (context, None, message),
            _ => return Err(wrong()),
        };
        let output = context_output(context.1).ok_or_else(wrong)?;
        let state = match state {
            Some((name, ty)) => Some((name.clone(), pointee(ty, true).ok_or_else(wrong)?)),
            None => None,
        };
        let message = (message.0.clone(), pointee(message.1, false).ok_or_else(wrong)?);
        Ok(Self { context: format_ident!("{}", context.0), output, state, message })
    }
}

fn named_parameter(input: &FnArg) -> Result<(String, &Type)> {
    match input {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(ident) if ident.subpat.is_none() && ident.by_ref.is_none() => {
                Ok((ident.ident.to_string(), &typed.ty))
            }
            Pat::Wild(_) => Ok((String::from("_"), &typed.ty)),
            other => Err(refuse::pattern(other)),
        },
        FnArg::Receiver(receiver) => Err(Error::new(
            receiver.span(),
            "a method has no device code; write a function whose parameter is `&Type` or `&mut Type`",
        )),
    }
}

fn pointee(ty: &Type, is_mutable: bool) -> Option<Type> {
    match ty {
        Type::Reference(reference) if reference.mutability.is_some() == is_mutable => {
            Some((*reference.elem).clone())
        }
        _ => None,
    }
}

/// Returns `Output` of `&mut DeviceContext<Output>`.
fn context_output(ty: &Type) -> Option<Type> {
    let Type::Path(path) = pointee(ty, true)? else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "DeviceContext")?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(ty) => Some(parse_quote!(#ty)),
        _ => None,
    })
}
